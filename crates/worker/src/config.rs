//! What the agent is told at its start. Everything has been parsed and judged before.

use std::path::PathBuf;
use std::time::Duration;

use atoll_model::{NodeName, RegionCode};

/// Who and where this agent is.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The worker's own folder: `worker.db` and `machines/<id>/`.
    pub state_dir: PathBuf,
    pub node: NodeName,
    pub region: RegionCode,
    /// Names every kernel object of this instance: `atoll-<8 hex>`.
    pub instance: u32,
    /// The node's owner epoch, for [`atoll_rpc::contract::NodeView`].
    pub epoch: u64,
    /// CPUs and memory that may be promised to machines.
    pub cpus: u32,
    pub memory_mb: u64,
    /// Seeds nonces and boot ids; from the operating system's generator in production.
    pub seed: u64,
    pub knobs: Knobs,
}

impl WorkerConfig {
    /// The prefix of this instance's kernel objects, such as `atoll-1a2b3c4d`.
    pub fn kernel_prefix(&self) -> String {
        format!("atoll-{:08x}", self.instance)
    }
}

/// What an operator may turn.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Memory promised to machines may exceed the node's by this factor, since stopped ones use none.
    /// Default 1.5.
    pub memory_overcommit: f64,
    /// Most machines on this node. Default 4096.
    pub max_machines: usize,
    /// Events kept for each machine. Default 200.
    pub events_kept: usize,
    /// Earlier versions kept for each machine. Default 20.
    pub versions_kept: usize,
    /// How long a destroyed machine can still be read. Default 10 minutes.
    pub tombstone_for: Duration,
    /// First wait of a probe that has not passed yet; doubles up to the check's interval. Default 25 ms.
    pub first_probe_after: Duration,
    /// The same for the probe of a port without a check, which a waking request waits for. Default 4 ms.
    pub first_port_probe_after: Duration,
    /// Interval and timeout of checks that name none. Defaults 10 s and 2 s.
    pub check_interval: Duration,
    pub check_timeout: Duration,
    /// Longest interval between probes of a port without checks. Default 1 s.
    pub port_probe_interval: Duration,
    /// Processes and threads of one machine. Default 4096.
    pub pids_limit: u32,
    /// Largest size of the worker's database; a write beyond it fails as on a full disk. Default 1 GiB.
    pub store_max_bytes: u64,
    /// Machines that are cleaned, adopted or launched at once when the agent starts. Default 16.
    pub parallel_recoveries: usize,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            memory_overcommit: 1.5,
            max_machines: 4096,
            events_kept: 200,
            versions_kept: 20,
            tombstone_for: Duration::from_secs(10 * 60),
            first_probe_after: Duration::from_millis(25),
            first_port_probe_after: Duration::from_millis(4),
            check_interval: Duration::from_secs(10),
            check_timeout: Duration::from_secs(2),
            port_probe_interval: Duration::from_secs(1),
            pids_limit: 4096,
            store_max_bytes: 1 << 30,
            parallel_recoveries: 16,
        }
    }
}
