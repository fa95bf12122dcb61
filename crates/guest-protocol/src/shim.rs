//! Messages between the agent and a machine's shim, the records the shim leaves in the machine's
//! folder, and the names of what lies there.

use serde::{Deserialize, Serialize};

use crate::Versions;
use crate::process::{Process, ProcessInfo, StreamControl, StreamEvent};

/// Names inside a machine's folder.
pub mod layout {
    /// The shim's listening socket. Whoever answers it is the machine's shim: pids are never
    /// trusted, since the kernel gives them to others.
    pub const SOCKET: &str = "shim.sock";
    /// Locked (`flock`) by the shim for as long as it lives.
    pub const LOCK: &str = "shim.lock";
    /// An [`super::ExitRecord`], durable before the shim ends.
    pub const EXIT: &str = "exit.json";
    /// A [`super::StartRecord`], written before a machine's first effect.
    pub const STARTED: &str = "started.json";
    /// The shim's own complaints.
    pub const SHIM_LOG: &str = "shim.log";
    /// The machine's writable top layer and where it is mounted, thrown away after each run.
    pub const WRITABLE: &str = "rw";
    /// Output of the main process as JSON lines.
    pub const LOG_DIR: &str = "log";
    pub const LOG_CURRENT: &str = "current.jsonl";
    pub const LOG_PREVIOUS: &str = "previous.jsonl";
}

/// All a shim needs to start a machine once. Secrets come in the environment and in files, so this
/// is sent to the shim and never written to disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// New for each start.
    pub boot_id: String,
    /// Path below each cgroup controller (v1) or the unified root (v2), without a leading slash.
    pub cgroup: String,
    pub network_namespace: String,
    pub hostname: String,
    /// Unpacked layers, lowest first.
    pub layers: Vec<String>,
    /// Written into the root in this order, replacing what is there.
    pub files: Vec<File>,
    pub main: Process,
    pub limits: Limits,
    /// The guest init's binary on the host.
    pub guest: String,
}

/// What a machine may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: u64,
    pub cpus: u32,
    /// `true`: the CPUs are a quota. `false`: a weight that may use what is idle.
    pub dedicated_cpus: bool,
    /// Most processes and threads at once.
    pub pids: u32,
}

/// A file of the machine's root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Absolute inside the root.
    pub path: String,
    #[serde(with = "hex")]
    pub content: Vec<u8>,
    pub mode: u32,
}

/// From the agent to the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToShim {
    Hello(Versions),
    /// Once, on the connection that the shim was started with.
    Launch(Box<Launch>),
    /// Streams are numbered by each connection for itself. Stream 0 is the main process, which takes
    /// signals alone.
    Stream {
        stream: u32,
        control: StreamControl,
    },
    /// Answered by [`FromShim::Reply`] with the same `request`.
    Request {
        request: u32,
        ask: Ask,
    },
    #[serde(other)]
    Unknown,
}

/// What can be asked about the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Kill every process.
    Kill,
    Pause,
    Resume,
    Stats,
    Processes,
    #[serde(other)]
    Unknown,
}

/// From the shim to an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromShim {
    Hello(Versions),
    /// After the hello, and at every change.
    Machine(Phase),
    Stream {
        stream: u32,
        event: StreamEvent,
    },
    Reply {
        request: u32,
        answer: Answer,
    },
    #[serde(other)]
    Unknown,
}

/// How far a machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    Starting,
    /// The guest has said hello and the main process was executed; `pid` is the guest's on the host.
    Running {
        boot_id: String,
        pid: u32,
        /// When the guest had been executed, in microseconds of the host's monotonic clock; 0: unknown.
        #[serde(default)]
        executed_us: u64,
    },
    /// Nothing of the machine is left.
    Failed(Failure),
    Ended(ExitRecord),
    #[serde(other)]
    Unknown,
}

/// Why a machine did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: String,
    /// The configuration or image is wrong: another host would fail as well.
    pub by_configuration: bool,
}

/// Answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Done,
    Failed {
        reason: String,
    },
    Stats(Stats),
    Processes {
        processes: Vec<ProcessInfo>,
    },
    #[serde(other)]
    Unknown,
}

/// What a machine uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub memory_bytes: u64,
    pub cpu_nanoseconds: u64,
    pub processes: u32,
}

/// How a machine's run ended; the content of [`layout::EXIT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub boot_id: String,
    /// The main process's own code; 128 + signal when it was killed.
    pub code: i32,
    pub signal: Option<i32>,
    /// The kernel killed a process of the machine for memory.
    pub oom_killed: bool,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Why the machine ended, when it was not its main process that did.
    pub error: Option<String>,
}

/// What was begun in a folder; the content of [`layout::STARTED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    pub boot_id: String,
    /// The host kernel's `boot_id`: tells a shim that died from a host that restarted.
    pub host_boot_id: String,
    pub cgroup: String,
}

/// Bytes as text, since JSON has none.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
        let text: String = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(D::Error::custom("an odd number of hexadecimal digits"));
        }
        pairs
            .iter()
            .map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?))
            .collect::<Option<_>>()
            .ok_or_else(|| D::Error::custom("a character that is not a hexadecimal digit"))
    }
}
