//! Whether a process waits for a processor. The kernel shows each thread's state: one that is stopped, asleep
//! or gone will not answer, however long one waits; one that is ready to run would, if it were let.

use std::fs;
use std::path::Path;

/// Whether any thread of the process named in a file is ready to run. In doubt it is not.
pub fn starves(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let threads = pid.and_then(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
    let mut states = threads.into_iter().flatten().flatten().filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        state(&stat)
    });
    states.any(|state| state == 'R')
}

/// The state in a line of `stat`; the name before it may hold spaces and brackets.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_is_ready_and_who_sleeps_or_is_gone_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("edge.pid");
        assert!(!starves(&file));
        fs::write(&file, std::process::id().to_string()).unwrap();
        assert!(starves(&file));
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(&file, sleeper.id().to_string()).unwrap();
        let asleep = (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            !starves(&file)
        });
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(asleep && !starves(&file));
        assert_eq!(state("7 (a) R b) S 1 7"), Some('S'));
    }
}
