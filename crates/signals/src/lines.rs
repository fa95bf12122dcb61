//! A log of lines that never holds up whoever writes to it: lines wait in a bounded queue for a thread
//! of their own; what does not fit, or cannot be written, is dropped and counted.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Lines that may wait to be written.
const QUEUE: usize = 8192;
/// Lines are written together up to this many bytes.
const BATCH_BYTES: usize = 64 << 10;
/// A file of this size is put away as `<name>.1`, of which there is one.
pub const FILE_MAX: u64 = 64 << 20;

/// Where lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    Off,
    Stderr,
    File(PathBuf),
}

impl FromStr for Destination {
    type Err = Infallible;

    /// `off`, `stderr`, or a path.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "off" => Self::Off,
            "stderr" => Self::Stderr,
            path => Self::File(path.into()),
        })
    }
}

enum Word {
    Line(Vec<u8>),
    Reopen,
}

/// The writing end. Dropping it writes what waits, and ends the thread.
pub struct LineLog {
    queue: Option<SyncSender<Word>>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl LineLog {
    /// Starts the thread; `None` when nothing is wanted. A file that cannot be opened is no error: it is
    /// tried again with every line.
    pub fn start(destination: Destination, file_max: u64) -> io::Result<Option<Self>> {
        let output = match destination {
            Destination::Off => return Ok(None),
            Destination::Stderr => Output::Stderr,
            Destination::File(path) => Output::File(LogFile { path, file: None, size: 0, max: file_max }),
        };
        let (queue, words) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer { output, dropped: dropped.clone(), failing: false };
        let thread = std::thread::Builder::new().name("line-log".to_owned()).spawn(move || writer.run(&words))?;
        Ok(Some(Self { queue: Some(queue), dropped, thread: Some(thread) }))
    }

    /// Takes one line, with its newline. Never waits.
    pub fn push(&self, line: Vec<u8>) {
        self.send(Word::Line(line));
    }

    /// Closes the file and opens it again by its name, after somebody else put it away.
    pub fn reopen(&self) {
        self.send(Word::Reopen);
    }

    /// Lines lost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn send(&self, word: Word) {
        let sent = self.queue.as_ref().is_some_and(|queue| queue.try_send(word).is_ok());
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for LineLog {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes a log panicked");
        }
    }
}

struct Writer {
    output: Output,
    dropped: Arc<AtomicU64>,
    /// The last attempt failed, and was told.
    failing: bool,
}

enum Output {
    Stderr,
    File(LogFile),
}

impl Writer {
    fn run(mut self, words: &Receiver<Word>) {
        let mut batch = Vec::new();
        while let Ok(first) = words.recv() {
            let mut lines = 0;
            let mut word = Some(first);
            while let Some(next) = word.take() {
                match next {
                    Word::Line(line) => {
                        batch.extend_from_slice(&line);
                        lines += 1;
                    }
                    Word::Reopen => {
                        self.write(&mut batch, &mut lines);
                        if let Output::File(file) = &mut self.output {
                            file.file = None;
                        }
                    }
                }
                if batch.len() < BATCH_BYTES {
                    word = words.try_recv().ok();
                }
            }
            self.write(&mut batch, &mut lines);
        }
    }

    fn write(&mut self, batch: &mut Vec<u8>, lines: &mut u64) {
        let written = match &mut self.output {
            Output::Stderr => io::stderr().write_all(batch),
            Output::File(file) => file.write(batch),
        };
        if let Err(error) = &written {
            self.dropped.fetch_add(*lines, Ordering::Relaxed);
            if !self.failing {
                tracing::warn!(%error, output = %self.name(), "a log cannot be written; its lines are dropped until it can");
            }
        }
        self.failing = written.is_err();
        batch.clear();
        *lines = 0;
    }

    fn name(&self) -> String {
        match &self.output {
            Output::Stderr => "stderr".to_owned(),
            Output::File(file) => file.path.display().to_string(),
        }
    }
}

struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    max: u64,
}

impl LogFile {
    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let result = self.try_write(batch);
        if result.is_err() {
            // Opened anew with the next lines: the folder may have been replaced, or the disk have room.
            self.file = None;
        }
        result
    }

    fn try_write(&mut self, batch: &[u8]) -> io::Result<()> {
        if self.file.is_some() && self.size >= self.max {
            self.file = None;
            fs::rename(&self.path, put_away(&self.path))?;
        }
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(batch)?;
        self.size += batch.len() as u64;
        Ok(())
    }
}

fn put_away(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(path: &Path, max: u64) -> LineLog {
        LineLog::start(Destination::File(path.to_owned()), max).unwrap().unwrap()
    }

    #[test]
    fn lines_are_written_in_order_and_a_full_file_is_put_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        // Each log writes all it has before it is gone: that makes batches of known size.
        for number in 0..3 {
            let log = start(&path, 1);
            log.push(format!("{number}\n").into_bytes());
            log.reopen();
            log.push(format!("{number} again\n").into_bytes());
            assert_eq!(log.dropped(), 0);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "0\n0 again\n1\n1 again\n2\n2 again\n");
        let log = start(&path, 1);
        log.push(b"full\n".to_vec());
        while fs::read_to_string(&path).unwrap().lines().last() != Some("full") {
            std::thread::yield_now();
        }
        log.push(b"new\n".to_vec());
        drop(log);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert!(fs::read_to_string(put_away(&path)).unwrap().ends_with("2 again\nfull\n"));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_until_they_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("later");
        let log = start(&inside.join("log"), FILE_MAX);
        log.push(b"lost\n".to_vec());
        while log.dropped() == 0 {
            std::thread::yield_now();
        }
        fs::create_dir(&inside).unwrap();
        log.push(b"kept\n".to_vec());
        drop(log);
        assert_eq!(fs::read_to_string(inside.join("log")).unwrap(), "kept\n");
    }

    #[test]
    fn a_full_queue_drops_and_never_waits() {
        let (queue, words) = sync_channel(1);
        let log = LineLog { queue: Some(queue), dropped: Arc::default(), thread: None };
        for _ in 0..3 {
            log.push(b"line\n".to_vec());
        }
        assert_eq!(log.dropped(), 2);
        drop(words);
    }

    #[test]
    fn destinations_are_read() {
        assert_eq!("off".parse(), Ok(Destination::Off));
        assert_eq!("stderr".parse(), Ok(Destination::Stderr));
        assert_eq!("/a/b".parse(), Ok(Destination::File("/a/b".into())));
    }
}
