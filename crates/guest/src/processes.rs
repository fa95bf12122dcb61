//! The machine's processes, read from its own `/proc`. A process that ends while being read is left
//! out; what may not be read is left empty.

use std::fs;
use std::io::Read;

use atoll_guest_protocol::process::ProcessInfo;

/// More than this many are not listed; the answer has to fit a frame.
const MOST: usize = 4096;
/// Longest command line reported, in bytes.
const COMMAND_MAX: u64 = 256;

/// All processes but the guest init itself, by pid.
pub fn list() -> Vec<ProcessInfo> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let uptime = fs::read_to_string("/proc/uptime").ok().and_then(|text| parse_uptime(&text)).unwrap_or(0);
    let mut processes: Vec<ProcessInfo> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| inspect(pid, uptime))
        .take(MOST)
        .collect();
    processes.sort_by_key(|process| process.pid);
    processes
}

fn inspect(pid: u32, uptime: u64) -> Option<ProcessInfo> {
    let stat = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let mut command = Vec::new();
    fs::File::open(format!("/proc/{pid}/cmdline")).ok()?.take(COMMAND_MAX).read_to_end(&mut command).ok()?;
    let command = match readable_command(&command) {
        command if command.is_empty() => format!("[{}]", stat.name),
        command => command,
    };
    let directory =
        fs::read_link(format!("/proc/{pid}/cwd")).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    Some(ProcessInfo {
        pid,
        command,
        directory,
        cpu: stat.cpu_ticks,
        rss: stat.resident_pages * system_number(libc::_SC_PAGESIZE),
        running_for: uptime.saturating_sub(stat.started_ticks / system_number(libc::_SC_CLK_TCK).max(1)),
    })
}

fn system_number(name: i32) -> u64 {
    // SAFETY: only reads a number of the system; unknown names give -1.
    let number = unsafe { libc::sysconf(name) };
    u64::try_from(number).unwrap_or(0)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    cpu_ticks: u64,
    started_ticks: u64,
    resident_pages: u64,
}

/// `/proc/<pid>/stat`. The name may hold spaces and parentheses, so fields count from the last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    // The first field after the name is the third of the line in the kernel's numbering.
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |kernel_number: usize| fields.get(kernel_number - 3)?.parse::<u64>().ok();
    Some(Stat { name, cpu_ticks: number(14)? + number(15)?, started_ticks: number(22)?, resident_pages: number(24)? })
}

fn parse_uptime(text: &str) -> Option<u64> {
    text.split('.').next()?.parse().ok()
}

fn readable_command(cmdline: &[u8]) -> String {
    let text = String::from_utf8_lossy(cmdline);
    text.trim_end_matches('\0').replace('\0', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 1 0 900 4096000 33 18446744073709551615";
        let expected = Stat { name: "a) b (c".into(), cpu_ticks: 12, started_ticks: 900, resident_pages: 33 };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat("42 (short) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn this_process_can_be_inspected() {
        let info = inspect(std::process::id(), u64::MAX).unwrap();
        assert!(info.rss > 0);
        assert!(!info.command.is_empty());
        assert!(info.directory.starts_with('/'));
    }
}
