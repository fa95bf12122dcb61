//! The main process's output as JSON lines in the machine's folder:
//! `{"ts_ms":1,"stream":"stdout","line":"text"}`. Output is never held up: what cannot be written
//! is counted, and the count is written once writing works again.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use atoll_guest_protocol::Channel;
use atoll_guest_protocol::shim::layout;

/// Longer lines are cut into several records.
const LINE_MAX: usize = 16 * 1024;
/// A file of this size is put away and a new one begun; one old file is kept.
const FILE_MAX: u64 = 8 * 1024 * 1024;

/// Writes one machine's log.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    file: Option<File>,
    size: u64,
    file_max: u64,
    /// Lines begun but not ended, of standard output and standard error.
    partial: [Vec<u8>; 2],
    lost: u64,
}

impl Log {
    /// Continues the log below `machine`, or begins it. A log that cannot be opened is tried again
    /// with each line.
    pub fn open(machine: &Path) -> Self {
        Self::with_limit(machine, FILE_MAX)
    }

    fn with_limit(machine: &Path, file_max: u64) -> Self {
        let folder = machine.join(layout::LOG_DIR);
        Self { folder, file: None, size: 0, file_max, partial: Default::default(), lost: 0 }
    }

    /// Takes output as it comes; whole lines are written.
    pub fn push(&mut self, channel: Channel, bytes: &[u8], now_ms: u64) {
        let index = usize::from(channel == Channel::Stderr);
        let mut records = Vec::new();
        for byte in bytes {
            let partial = &mut self.partial[index];
            if *byte != b'\n' {
                partial.push(*byte);
            }
            if *byte == b'\n' || partial.len() == LINE_MAX {
                append(&mut records, channel, partial, now_ms);
                partial.clear();
                self.write_when_large(&mut records);
            }
        }
        self.write(&mut records);
    }

    /// Writes lines that were begun and will not end.
    pub fn finish(&mut self, now_ms: u64) {
        let mut records = Vec::new();
        for (index, channel) in [Channel::Stdout, Channel::Stderr].into_iter().enumerate() {
            let partial = std::mem::take(&mut self.partial[index]);
            if !partial.is_empty() {
                append(&mut records, channel, &partial, now_ms);
            }
        }
        self.write(&mut records);
    }

    /// Empty lines turn one byte into a record of fifty, so records are written as they grow.
    fn write_when_large(&mut self, records: &mut Vec<u8>) {
        if records.len() > LINE_MAX {
            self.write(records);
        }
    }

    fn write(&mut self, records: &mut Vec<u8>) {
        if records.is_empty() {
            return;
        }
        let count = records.iter().filter(|byte| **byte == b'\n').count() as u64;
        if self.try_write(records).is_err() {
            self.lost += count;
            // Opened anew next time: the folder may have been replaced, or the disk have room again.
            self.file = None;
            self.size = 0;
        }
        records.clear();
    }

    fn try_write(&mut self, records: &[u8]) -> std::io::Result<()> {
        if self.size >= self.file_max {
            self.file = None;
            fs::rename(self.current(), self.folder.join(layout::LOG_PREVIOUS))?;
            self.size = 0;
        }
        if self.file.is_none() {
            fs::create_dir_all(&self.folder)?;
            let file = OpenOptions::new().create(true).append(true).open(self.current())?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.lost > 0 {
            let note = format!("{{\"ts_ms\":0,\"stream\":\"stderr\",\"line\":\"[{} lines were lost]\"}}\n", self.lost);
            file.write_all(note.as_bytes())?;
            self.size += note.len() as u64;
            self.lost = 0;
        }
        file.write_all(records)?;
        self.size += records.len() as u64;
        Ok(())
    }

    fn current(&self) -> PathBuf {
        self.folder.join(layout::LOG_CURRENT)
    }
}

fn append(records: &mut Vec<u8>, channel: Channel, line: &[u8], now_ms: u64) {
    let stream = if channel == Channel::Stderr { "stderr" } else { "stdout" };
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    records.extend_from_slice(format!("{{\"ts_ms\":{now_ms},\"stream\":\"{stream}\",\"line\":").as_bytes());
    // Writing text to a vector cannot fail; the name of the failure would be "out of memory".
    if serde_json::to_writer(&mut *records, &text).is_ok() {
        records.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(folder: &Path, name: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(folder.join(layout::LOG_DIR).join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_come_whole_however_they_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path());
        log.push(Channel::Stdout, b"one\ntw", 1);
        log.push(Channel::Stderr, b"bad \xff byte\n", 2);
        log.push(Channel::Stdout, b"o\r\nlast", 3);
        log.finish(4);
        let expected = [
            serde_json::json!({"ts_ms":1,"stream":"stdout","line":"one"}),
            serde_json::json!({"ts_ms":2,"stream":"stderr","line":"bad \u{fffd} byte"}),
            serde_json::json!({"ts_ms":3,"stream":"stdout","line":"two"}),
            serde_json::json!({"ts_ms":4,"stream":"stdout","line":"last"}),
        ];
        assert_eq!(lines(folder.path(), layout::LOG_CURRENT), expected);
    }

    #[test]
    fn long_lines_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path());
        log.push(Channel::Stdout, &vec![b'x'; LINE_MAX + 5], 1);
        log.push(Channel::Stdout, b"\n", 1);
        let lengths: Vec<usize> = lines(folder.path(), layout::LOG_CURRENT)
            .iter()
            .map(|record| record["line"].as_str().unwrap().len())
            .collect();
        assert_eq!(lengths, [LINE_MAX, 5]);
    }

    #[test]
    fn a_full_file_is_put_away_and_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::with_limit(folder.path(), 100);
        for number in 0..20 {
            log.push(Channel::Stdout, format!("{number}\n").as_bytes(), 1);
        }
        let current = lines(folder.path(), layout::LOG_CURRENT);
        let previous = lines(folder.path(), layout::LOG_PREVIOUS);
        assert_eq!(current.last().unwrap()["line"], "19");
        assert!(previous.len() < 10, "{previous:?}");
        // A restarted machine continues where the log was.
        let mut log = Log::with_limit(folder.path(), 10_000);
        log.push(Channel::Stdout, b"again\n", 2);
        assert_eq!(lines(folder.path(), layout::LOG_CURRENT).len(), current.len() + 1);
    }

    #[test]
    fn lost_lines_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path());
        fs::write(folder.path().join(layout::LOG_DIR), "in the way").unwrap();
        log.push(Channel::Stdout, b"a\nb\n", 1);
        fs::remove_file(folder.path().join(layout::LOG_DIR)).unwrap();
        log.push(Channel::Stdout, b"c\n", 2);
        let records = lines(folder.path(), layout::LOG_CURRENT);
        assert_eq!(records[0]["line"], "[2 lines were lost]");
        assert_eq!(records[1]["line"], "c");
    }
}
