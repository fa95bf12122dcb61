//! What callers ask of the agent, as values.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::{EventId, MachineState, MachineVersion};
use atoll_rpc::contract::LaunchBundle;

/// Records and launches a machine.
#[derive(Clone, Debug)]
pub struct CreateMachine {
    pub bundle: LaunchBundle,
    /// 0: no lease.
    pub lease_ttl_seconds: u64,
    pub lease_owner: String,
}

/// What the edge of a node knows of a machine there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Open requests or connections, by service index; missing: none.
    pub loads: Vec<u32>,
    /// It is cordoned as far as the edge knows, which lets nobody in any more.
    pub closed: bool,
}

/// Swaps in a new version.
#[derive(Clone, Debug)]
pub struct UpdateMachine {
    pub bundle: LaunchBundle,
    /// The version the caller believes to be current.
    pub expected_version: Option<MachineVersion>,
    pub lease_nonce: String,
}

/// How a machine is asked to end; what is absent comes from its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOptions {
    pub signal: Option<String>,
    pub timeout: Option<Duration>,
}

/// Which state to wait for.
#[derive(Clone, Debug)]
pub struct WaitFor {
    /// Any of these.
    pub states: Vec<MachineState>,
    /// Any state that does not end by itself.
    pub settled: bool,
    pub version: Option<MachineVersion>,
    /// Only what happens after this event counts.
    pub from_event: Option<EventId>,
    pub timeout: Duration,
}

/// The machine has reached an awaited state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waited {
    pub state: MachineState,
    pub version: MachineVersion,
    pub event: Option<EventId>,
}

/// What to do with a machine's lease.
#[derive(Clone, Debug)]
pub enum LeaseAsk {
    Get,
    Acquire(crate::lease::Acquire),
    Release { nonce: String },
}

/// Changes metadata without a new version.
#[derive(Clone, Debug)]
pub struct SetMetadata {
    /// An empty value removes the key.
    pub entries: BTreeMap<String, String>,
    /// What is not named goes.
    pub replace_all: bool,
    pub expected_version: Option<MachineVersion>,
}

/// A command to run beside the main process.
#[derive(Clone, Debug)]
pub struct ExecCommand {
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Rows and columns, when a terminal is wanted.
    pub terminal: Option<(u16, u16)>,
}

/// The default stop signal.
pub const SIGINT: i32 = 2;

/// Signals that callers may name, with their numbers on Linux.
const SIGNALS: &[(&str, i32)] = &[
    ("SIGHUP", 1),
    ("SIGINT", SIGINT),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
];

/// The number of a signal named as `SIGTERM` or `TERM`.
pub fn signal_number(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    SIGNALS.iter().find(|(known, _)| known.strip_prefix("SIG") == Some(name)).map(|(_, number)| *number)
}
