//! How a machine's processes run: one trait, several degrees of isolation. A driver knows nothing
//! of apps, releases or routing, and owns neither network namespaces nor image layers: it gets
//! paths. Everything it makes lies in the machine's folder, so that [`Driver::adopt`] finds it after
//! the agent was replaced, and [`Driver::destroy`] can undo a start that was killed half way.

mod container;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use atoll_model::MachineId;
use atoll_model::guest::Guest;

pub use container::{ContainerDriver, ProgramError};

/// All a driver needs to start a machine once. Environment and files may hold secrets: drivers never
/// write them where they outlive the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineSpec {
    pub id: MachineId,
    /// The machine's own folder; the driver may create anything in it.
    pub dir: PathBuf,
    /// Unpacked image layers, lowest first, read only. The driver makes the writable top.
    pub layers: Vec<PathBuf>,
    pub process: ProcessSpec,
    /// Also written to `/etc/hostname`.
    pub hostname: String,
    /// Lines of `/etc/hosts`: address and names.
    pub hosts: Vec<(IpAddr, Vec<String>)>,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Files written into the root before the process starts: absolute path, content, mode.
    pub files: Vec<FileSpec>,
    /// A ready network namespace, such as `/run/netns/atoll-1a2b3c4d-m0`.
    pub network_namespace: PathBuf,
    pub guest: Guest,
    /// Most processes and threads at once.
    pub pids_limit: u32,
    /// Path below each controller (v1) or below the unified root (v2), e.g. `atoll-1a2b3c4d/machine-73d8d46dbee589`.
    pub cgroup: String,
    /// New for each start; readable in the machine as `/proc/sys/kernel/random/boot_id` is not.
    pub boot_id: String,
}

/// A process as an image and a configuration describe it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments; the program is looked up in the machine's `PATH`.
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Absolute; created when missing.
    pub working_dir: String,
    /// `""`, `user`, `uid`, `user:group` or `uid:gid`, resolved by the machine's own `/etc/passwd`.
    pub user: String,
    pub tty: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileSpec {
    pub path: String,
    pub content: Vec<u8>,
    pub mode: u32,
}

/// How a machine's main process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The process's own code; 128 + signal when it was killed.
    pub code: i32,
    pub signal: Option<i32>,
    /// The kernel killed a process of this machine for memory.
    pub oom_killed: bool,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Why the machine could not be started or kept, when it was not the process that ended.
    pub error: Option<String>,
}

/// A command run beside the main process.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    pub process: ProcessSpec,
    /// Rows and columns of the terminal, when `process.tty`.
    pub terminal: Option<(u16, u16)>,
}

/// What goes into a running command.
#[derive(Clone, Debug)]
pub enum ExecInput {
    Stdin(Vec<u8>),
    CloseStdin,
    Resize { rows: u16, columns: u16 },
    Signal(i32),
}

/// What comes out of a running command; `Exit` is the last.
#[derive(Clone, Debug)]
pub enum ExecOutput {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Exit { code: i32, signal: Option<i32> },
}

/// Both ends of a running command. Dropping `input` closes its standard input; dropping `output`
/// kills it.
#[derive(Debug)]
pub struct ExecStreams {
    pub input: mpsc::Sender<ExecInput>,
    pub output: mpsc::Receiver<ExecOutput>,
}

/// What a machine uses now.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    pub memory_bytes: u64,
    pub cpu_time: Duration,
    pub processes: u32,
}

/// A process of a machine, for `ps`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// As seen inside the machine.
    pub pid: u32,
    pub command: String,
    pub directory: String,
    /// Clock ticks spent.
    pub cpu: u64,
    /// Resident bytes.
    pub rss: u64,
    /// Seconds since the process started.
    pub running_for: u64,
}

/// Why a driver could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The configuration cannot run: wrong program, user or folder. Trying again does not help.
    #[error("machine {machine} cannot start: {reason}")]
    Unstartable { machine: MachineId, reason: String },
    /// A command beside the main process cannot run: wrong program, user or folder.
    #[error("machine {machine} cannot run the command: {reason}")]
    Refused { machine: MachineId, reason: String },
    #[error("machine {machine} is not running")]
    NotRunning { machine: MachineId },
    #[error("the {driver} driver cannot {what} on this host: {reason}")]
    Unsupported { driver: &'static str, what: &'static str, reason: String },
    #[error("cannot {action} for machine {machine}")]
    Io {
        machine: MachineId,
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// Runs machines of one kind of isolation.
#[async_trait]
pub trait Driver: Send + Sync {
    fn name(&self) -> &'static str;

    /// Starts the machine, with a fresh writable top, and returns when its guest has said hello and
    /// the main process was executed. A start that fails leaves nothing behind but logs; one that is
    /// dropped half way may still come up and is undone by [`Driver::destroy`].
    async fn start(&self, spec: &MachineSpec) -> Result<Arc<dyn Running>, DriverError>;

    /// Finds the machine in `dir` still running, or its recorded exit, after the agent restarted.
    async fn adopt(&self, id: MachineId, dir: &std::path::Path) -> Result<Adopted, DriverError>;

    /// Kills whatever is left and removes mounts, cgroups, the writable root and the records of the
    /// last run. Logs stay. Idempotent.
    async fn destroy(&self, id: MachineId, dir: &std::path::Path, cgroup: &str) -> Result<(), DriverError>;
}

/// What was found in a machine's folder.
pub enum Adopted {
    Running(Arc<dyn Running>),
    Exited(Exit),
    /// Never started, or its traces are gone (a reboot).
    Nothing,
}

/// A started machine.
#[async_trait]
pub trait Running: Send + Sync {
    fn boot_id(&self) -> &str;

    /// The host's pid of the machine's first process.
    fn pid(&self) -> u32;

    /// Resolves when the machine has ended; may be called many times and by many.
    async fn wait(&self) -> Exit;

    /// Sends a signal to the main process.
    async fn signal(&self, signal: i32) -> Result<(), DriverError>;

    /// Kills every process of the machine.
    async fn kill(&self) -> Result<(), DriverError>;

    /// Stops every process where it is, memory and all.
    async fn pause(&self) -> Result<(), DriverError>;

    /// Lets paused processes go on.
    async fn resume(&self) -> Result<(), DriverError>;

    /// Starts a command and returns when its program was executed.
    async fn exec(&self, exec: ExecSpec) -> Result<ExecStreams, DriverError>;

    async fn stats(&self) -> Result<Stats, DriverError>;

    async fn processes(&self) -> Result<Vec<ProcessInfo>, DriverError>;
}
