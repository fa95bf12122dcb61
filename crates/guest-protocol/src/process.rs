//! Processes as the guest starts and reports them, and what is said about one while it runs. A
//! process is known by its *stream* number, not its pid.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A process to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; a program without `/` is looked up in `env`'s `PATH`.
    pub args: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute; created when missing. Empty means `/`.
    #[serde(default)]
    pub working_dir: String,
    /// `""`, `user`, `uid`, `user:group` or `uid:gid`, by the machine's own `/etc/passwd`.
    #[serde(default)]
    pub user: String,
    /// Present: the process gets a terminal of this size and no separate standard error.
    #[serde(default)]
    pub terminal: Option<Terminal>,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    pub rows: u16,
    pub columns: u16,
}

/// What is asked of one stream's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum StreamControl {
    /// Begins the stream.
    Start(Process),
    /// End of standard input, after what was sent before.
    CloseStdin,
    /// The receiver of output took this many bytes.
    Credit {
        bytes: u32,
    },
    Signal {
        signal: i32,
    },
    Resize(Terminal),
    /// Nobody listens any more: kill the process and its group.
    Abandon,
    #[serde(other)]
    Unknown,
}

/// What is told about one stream's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum StreamEvent {
    /// The program was executed; `pid` as seen inside the machine.
    Started { pid: u32 },
    /// It could not be executed. The stream has ended.
    Refused { reason: String },
    /// The process took this many bytes of standard input.
    Credit { bytes: u32 },
    /// It ended, and all its output was sent before. The stream has ended.
    Exit { code: i32, signal: Option<i32> },
    #[serde(other)]
    Unknown,
}

/// A line of `ps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// As seen inside the machine.
    pub pid: u32,
    pub command: String,
    /// Empty when it cannot be read.
    pub directory: String,
    /// Clock ticks spent in user and kernel mode.
    pub cpu: u64,
    /// Resident bytes.
    pub rss: u64,
    /// Seconds since the process started.
    pub running_for: u64,
}
