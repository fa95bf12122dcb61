//! Reading a machine's logs, once or as they grow. A file is known by its inode, so that one that
//! was put away is read to its end under its second name before the new one is begun.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Line, LogFiles, files};

/// Longest line taken; the rest of a longer one is skipped.
const LINE_MAX: u64 = 256 * 1024;
/// Most bytes read of a file in one go.
const READ_MAX: u64 = 16 * 1024 * 1024;

/// Reads both logs of one machine from where it stopped last. Blocking.
pub struct Follower {
    cursors: [Cursor; 2],
}

struct Cursor {
    files: LogFiles,
    /// Inode and offset behind the last whole line taken.
    at: Option<(u64, u64)>,
}

impl Follower {
    pub fn new(machine_dir: &Path) -> Self {
        Self { cursors: files(machine_dir).map(|files| Cursor { files, at: None }) }
    }

    /// Whole lines since the last call, in order of time. The first call gives everything kept.
    pub fn read(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        for cursor in &mut self.cursors {
            cursor.read(&mut lines)?;
        }
        lines.sort_by_key(|line| line.ts_ms);
        Ok(lines)
    }
}

impl Cursor {
    fn read(&mut self, lines: &mut Vec<Line>) -> io::Result<()> {
        let current = open(&self.files.current)?;
        let inode = current.as_ref().map(|(_, inode)| *inode);
        match self.at {
            None => {
                if let Some((file, _)) = open(&self.files.previous)? {
                    take(file, 0, lines)?;
                }
            }
            Some((seen, offset)) if Some(seen) != inode => {
                // Put away since: the rest of it is under its second name, unless that was replaced too.
                if let Some((file, previous)) = open(&self.files.previous)? {
                    take(file, if previous == seen { offset } else { 0 }, lines)?;
                }
                self.at = None;
            }
            Some(_) => {}
        }
        if let Some((file, inode)) = current {
            let offset = self.at.map_or(0, |(_, offset)| offset);
            self.at = Some((inode, take(file, offset, lines)?));
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Option<(File, u64)>> {
    match File::open(path) {
        Ok(file) => {
            let inode = file.metadata()?.ino();
            Ok(Some((file, inode)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The whole lines of a log from `offset` on, and the offset behind them.
pub(crate) fn whole_lines(log: &[u8], offset: u64) -> (Vec<Line>, u64) {
    let mut lines = Vec::new();
    // Bytes in memory are always there to be read.
    let end = take(io::Cursor::new(log), offset, &mut lines).unwrap_or(offset);
    (lines, end)
}

/// Takes whole lines from `offset` on; gives the offset behind the last.
fn take(mut file: impl Read + Seek, offset: u64, lines: &mut Vec<Line>) -> io::Result<u64> {
    file.seek(SeekFrom::Start(offset))?;
    let mut reader = BufReader::new(file.take(READ_MAX));
    let mut end = offset;
    let mut text = Vec::new();
    loop {
        text.clear();
        let length = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut text)? as u64;
        if length == 0 {
            return Ok(end);
        }
        if text.last() != Some(&b'\n') && length < LINE_MAX {
            // The writer is in the middle of it.
            return Ok(end);
        }
        end += length;
        // A line that is no record is left out: the file may have been cut by a power failure.
        if let Ok(line) = serde_json::from_slice(&text) {
            lines.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    fn append(path: &Path, ts: u64, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, r#"{{"ts_ms":{ts},"stream":"stdout","line":"{text}"}}"#).unwrap();
    }

    fn texts(follower: &mut Follower) -> Vec<String> {
        follower.read().unwrap().into_iter().map(|line| line.line).collect()
    }

    #[test]
    fn lines_are_read_once_and_across_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let [output, own] = files(dir.path());
        let mut follower = Follower::new(dir.path());
        assert!(texts(&mut follower).is_empty());
        append(&output.current, 2, "two");
        append(&own.current, 1, "one");
        assert_eq!(texts(&mut follower), ["one", "two"]);
        append(&output.current, 3, "three");
        fs::rename(&output.current, &output.previous).unwrap();
        append(&output.current, 4, "four");
        assert_eq!(texts(&mut follower), ["three", "four"]);
        assert!(texts(&mut follower).is_empty());
        assert_eq!(texts(&mut Follower::new(dir.path())), ["one", "two", "three", "four"]);
    }

    #[test]
    fn a_line_in_the_making_waits_and_garbage_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let [output, _] = files(dir.path());
        append(&output.current, 1, "one");
        let mut file = fs::OpenOptions::new().append(true).open(&output.current).unwrap();
        file.write_all(b"\0\0garbage\n{\"ts_ms\":2,\"stream\":\"stdout\",").unwrap();
        let mut follower = Follower::new(dir.path());
        assert_eq!(texts(&mut follower), ["one"]);
        file.write_all(b"\"line\":\"two\"}\n").unwrap();
        assert_eq!(texts(&mut follower), ["two"]);
    }
}
