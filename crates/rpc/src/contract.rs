//! The structured values that travel as JSON inside the gRPC messages of the worker's contract.
//! They evolve as the public API does: fields are added, never reused; unknown ones are ignored.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use atoll_model::address::NetworkId;
use atoll_model::machine::{CheckResult, Event, Lease};
use atoll_model::policy::NetworkLimits;
use atoll_model::{AppName, MachineConfig, MachineId, MachineState, MachineVersion, NodeName, OrgSlug, RegionCode};

/// All a worker needs to run one version of a machine, ever: delivered with create and update and
/// kept sealed, so that a wake needs neither control nor a registry.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchBundle {
    pub machine: MachineId,
    pub name: String,
    pub app: AppName,
    pub org: OrgSlug,
    pub network: NetworkId,
    pub region: RegionCode,
    pub version: MachineVersion,
    pub config: MachineConfig,
    pub image: PinnedImage,
    /// Values of the app's secrets that this machine gets.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    #[serde(default)]
    pub secrets_version: u64,
    pub private_ipv6: Ipv6Addr,
    /// What the app's network policies come to for this machine.
    #[serde(default, skip_serializing_if = "NetworkLimits::is_none")]
    pub limits: NetworkLimits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_region: Option<RegionCode>,
    /// Prepare, but do not start.
    #[serde(default)]
    pub skip_launch: bool,
    #[serde(default)]
    pub cordoned: bool,
    /// Unix milliseconds; of the machine, not of this version.
    pub created_at_ms: u64,
}

impl std::fmt::Debug for LaunchBundle {
    /// Never prints secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaunchBundle")
            .field("machine", &self.machine)
            .field("app", &self.app)
            .field("version", &self.version)
            .field("image", &self.image)
            .field("secrets_version", &self.secrets_version)
            .finish_non_exhaustive()
    }
}

/// An image as it was asked for and as it was resolved, once, by control.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinnedImage {
    /// As the user wrote it, such as `registry.example/app/web:v2`.
    pub reference: String,
    /// `sha256:…` of the manifest.
    pub digest: String,
}

/// A machine as its worker knows it: the answer to every single-machine read.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MachineView {
    pub id: MachineId,
    pub name: String,
    pub app: AppName,
    pub state: MachineState,
    pub region: RegionCode,
    pub node: NodeName,
    pub version: MachineVersion,
    pub image: PinnedImage,
    pub private_ipv6: Ipv6Addr,
    pub created_at_ms: u64,
    pub updated_at_ms: u64,
    pub config: MachineConfig,
    pub cordoned: bool,
    /// It is cordoned, its node's edge lets nobody in any more, and nobody is in it.
    #[serde(default)]
    pub drained: bool,
    #[serde(default)]
    pub secrets_version: u64,
    /// What network policies come to for this machine, as far as its worker knows.
    #[serde(default, skip_serializing_if = "NetworkLimits::is_none")]
    pub limits: NetworkLimits,
    /// Newest first.
    #[serde(default)]
    pub events: Vec<Event>,
    #[serde(default)]
    pub checks: Vec<CheckResult>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Of the present run; absent while the machine is not running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Host pid of the machine's first process while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Versions this machine had before, newest first, with their configurations.
    #[serde(default)]
    pub earlier_versions: Vec<EarlierVersion>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EarlierVersion {
    pub version: MachineVersion,
    pub config: MachineConfig,
}

/// What a node has and what of it is taken.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeView {
    pub name: NodeName,
    pub region: RegionCode,
    pub epoch: u64,
    pub cpus: u32,
    pub memory_mb: u64,
    /// Promised to machines that are not destroyed.
    pub memory_promised_mb: u64,
    pub machines: u32,
    pub program_version: String,
}

/// A process inside a machine, as `GET …/ps` lists it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessRow {
    pub pid: u32,
    /// Seconds since the process started.
    pub rtime: u64,
    /// Clock ticks in the kernel.
    pub stime: u64,
    pub command: String,
    pub directory: String,
    /// Clock ticks spent.
    pub cpu: u64,
    /// Resident bytes.
    pub rss: u64,
}
