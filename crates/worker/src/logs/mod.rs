//! Logs of machines: what the shim writes of their output, and the node's own lines about them.
//! Both are JSON lines, `{"ts_ms":1,"stream":"stdout","line":"text"}`, in the machine's folder; a
//! file that has grown is put away under a second name and a new one begun.

mod own;
mod read;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use atoll_model::{AppName, MachineId};

pub use own::OwnLog;
pub use read::Follower;
pub(crate) use read::whole_lines;

/// What is wanted of the logs.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    pub machine: Option<MachineId>,
    pub app: Option<AppName>,
    /// Unix milliseconds; only later lines.
    pub after_ms: u64,
    /// Only so many of the newest lines; 0: all that are kept.
    pub tail: usize,
    /// Go on with new lines.
    pub follow: bool,
}

/// One line of a machine's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    pub machine: MachineId,
    pub app: AppName,
    pub timestamp_ms: u64,
    /// `stdout`, `stderr`, or `atoll` for the node's own lines.
    pub stream: String,
    pub text: String,
}

/// A line as it is in the file.
#[derive(Serialize, Deserialize, PartialEq)]
pub(crate) struct Line {
    pub ts_ms: u64,
    pub stream: String,
    pub line: String,
}

/// A log and the name it gets when it is put away.
pub(crate) struct LogFiles {
    pub current: PathBuf,
    pub previous: PathBuf,
}

/// The logs of a machine: its output, and the node's lines.
pub(crate) fn files(machine_dir: &Path) -> [LogFiles; 2] {
    let dir = machine_dir.join("log");
    let pair = |current: &str, previous: &str| LogFiles { current: dir.join(current), previous: dir.join(previous) };
    [pair("current.jsonl", "previous.jsonl"), pair("atoll.jsonl", "atoll-previous.jsonl")]
}
