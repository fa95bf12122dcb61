//! Bodies of Atoll's own API (`/api/v1`), shared by server and client. The Machines API (`/v1`) has
//! its shapes from outside; these are ours. Fields are added, never reused.

mod audit;
mod challenges;
mod devices;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::machine::CheckResult;
use crate::row::NodeState;
use crate::{AppName, MachineId, MachineState, MachineVersion, NodeName, OrgSlug, RegionCode};

pub use audit::*;
pub use challenges::*;
pub use devices::*;

/// An error as every route answers it. `error` is the text for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// `POST /api/v1/apps/{app}/deploys`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DeployRequest {
    /// Text of the fly.toml.
    pub manifest: String,
    /// Named in errors.
    #[serde(default)]
    pub manifest_name: String,
    /// Overrides `[build] image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Sets the app's regions, remembered for later deploys; empty: as remembered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<RegionCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Refuse keys that are not documented, instead of warning.
    #[serde(default)]
    pub strict: bool,
    /// Go on although documented keys are not honoured.
    #[serde(default)]
    pub allow_unsupported: bool,
    /// Go on without servers that do not answer; the app's machines there go when they are back.
    #[serde(default)]
    pub skip_unreachable: bool,
    /// Contents of the files that `[[files]] local_path` names, in base64, by that path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub local_files: BTreeMap<String, String>,
}

/// Answer to a deploy that was accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeployAccepted {
    pub release: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseStatus {
    /// Recorded, not begun.
    Pending,
    Running,
    Complete,
    /// Its gate failed and the previous release was put back.
    Failed,
    /// A later deploy took over before it was done.
    Superseded,
}

impl ReleaseStatus {
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    pub version: u64,
    pub status: ReleaseStatus,
    pub image: String,
    /// `sha256:…`; empty until the image was resolved.
    pub digest: String,
    pub strategy: String,
    pub created_by: String,
    pub created_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at_ms: Option<u64>,
    /// Why it failed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One line of a deploy's progress, from `GET /api/v1/apps/{app}/releases/{n}/events` (JSON lines).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeployEvent {
    /// Counts from 0 within the release: resume with `?after=`.
    pub index: u64,
    pub at_ms: u64,
    pub kind: DeployEventKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionCode>,
    /// For people; what is done, or what is being waited for.
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeployEventKind {
    /// A step has begun or goes on; `text` says what it waits for.
    Progress,
    /// A step is done.
    Done,
    /// Something failed; an undo follows.
    Failed,
    /// A line of the failing machine's log.
    Log,
    /// The deploy ended well; the last event.
    Complete,
    /// The deploy ended badly and was undone; the last event.
    RolledBack,
}

impl DeployEventKind {
    pub fn is_last(self) -> bool {
        matches!(self, Self::Complete | Self::RolledBack)
    }
}

/// `GET /api/v1/apps/{app}`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AppStatus {
    pub name: AppName,
    pub org: OrgSlug,
    /// The default host name.
    pub hostname: String,
    pub regions: Vec<RegionCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_region: Option<RegionCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseView>,
    pub machines: Vec<MachineSummary>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MachineSummary {
    pub id: MachineId,
    pub name: String,
    pub app: AppName,
    pub state: MachineState,
    pub region: RegionCode,
    pub node: NodeName,
    pub version: MachineVersion,
    pub process_group: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    pub cordoned: bool,
    pub checks: Vec<CheckResult>,
    pub image: String,
    pub private_ip: String,
    /// `ok`, `unknown` or `unreachable`.
    pub host_status: String,
    pub updated_at_ms: u64,
}

/// `GET /api/v1/machines/unknown`: a machine that a server has and the records do not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct UnknownMachine {
    pub id: MachineId,
    pub app: AppName,
    pub state: MachineState,
    pub region: RegionCode,
    pub node: NodeName,
    /// Why it is not taken back into the records.
    pub why: String,
}

/// `PUT /api/v1/apps/{app}/scale`
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ScaleRequest {
    /// Machines per process group, per region of the app unless `region` is given.
    pub counts: BTreeMap<String, u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionCode>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeSummary {
    pub name: NodeName,
    pub region: RegionCode,
    pub state: NodeState,
    pub epoch: u64,
    pub backhaul: String,
    pub worker_rpc: String,
    pub cpus: u32,
    pub memory_mb: u64,
    pub machines: u32,
    /// Whether control hears its worker now.
    pub reachable: bool,
    pub runs_control: bool,
    /// While it is drained: the machines that are still there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<LeavingMachine>,
}

/// A machine that cannot stay on its node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LeavingMachine {
    pub id: MachineId,
    pub app: AppName,
    /// The node that takes it; `None`: it stays as things are.
    pub to: Option<NodeName>,
    /// Its replacement is being made, or about to serve.
    pub moving: bool,
    /// Why it stays, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// `POST /api/v1/nodes/tokens`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenReply {
    pub token: String,
    pub expires_at_ms: u64,
    /// Control's node address as the server knows it.
    pub control: String,
}

/// `POST /api/v1/tokens`
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TokenRequest {
    pub name: String,
    /// `owner` or `read-only`.
    pub role: String,
    /// Seconds; absent: does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenReply {
    pub id: String,
    /// Shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    pub name: String,
    pub role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageSummary {
    /// `repository:tag`.
    pub name: String,
    pub digest: String,
    pub bytes: u64,
    pub layers: u32,
}

/// `PUT /api/v1/registries/{host}`. Neither user nor password: only `insecure` is meant.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RegistryRequest {
    pub user: String,
    pub password: String,
    /// Spoken to without TLS.
    pub insecure: bool,
}

impl std::fmt::Debug for RegistryRequest {
    /// Never prints the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryRequest")
            .field("user", &self.user)
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

/// Another registry that the platform pulls from in its own way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RegistrySummary {
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub insecure: bool,
}

/// `POST /api/v1/addresses/pools`
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AddressPoolRequest {
    /// Such as `198.51.100.0/24`.
    #[schema(required)]
    pub prefix: String,
    /// Its addresses are several apps' at once, told apart by name; else each is one app's alone.
    pub shared: bool,
    /// Routes of its single addresses may be announced where their apps are served.
    pub local: bool,
}

/// A prefix that apps' addresses are of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AddressPoolSummary {
    pub prefix: String,
    pub shared: bool,
    pub local: bool,
    /// Addresses that apps have.
    pub used: usize,
    /// Addresses that were given back and are not given out yet.
    pub resting: usize,
    /// Servers that have not said that they go without some of these; others wait for time alone.
    #[serde(default)]
    pub waiting_for: Vec<NodeName>,
}

/// What a server's place announces by BGP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlaceAnnouncements {
    pub node: NodeName,
    pub region: RegionCode,
    /// The server answered.
    pub heard: bool,
    /// Its guard runs. Without it neighbours drop what it announced.
    pub running: bool,
    /// What the guard said last; absent if there never was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<GuardReport>,
}

/// What people ask of a guard's report; its file has more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GuardReport {
    /// `serves`, `busy`, `overloaded`, `not_serving` or `draining`.
    pub reason: String,
    /// Since when the reason holds, in seconds since 1970.
    pub since: u64,
    /// By prefix and neighbour.
    pub announced: BTreeMap<String, BTreeMap<String, AnnouncedHow>>,
    pub sessions: Vec<UpstreamSession>,
    pub real_time: bool,
    /// Why the present plan is not carried out, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_refused: Option<String>,
    /// Why the edge's present list of served addresses is not, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_refused: Option<String>,
    /// The last ones, the oldest first.
    #[serde(default)]
    pub changes: Vec<AnnouncementChange>,
}

/// How much a neighbour is to like a route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AnnouncedHow {
    pub prepend: u8,
    pub communities: Vec<String>,
}

/// The session with a neighbour.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct UpstreamSession {
    pub upstream: String,
    pub established: bool,
    /// As the BGP daemon says it.
    pub info: String,
}

/// A line of the difference between what was announced and what is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AnnouncementChange {
    /// Seconds since 1970.
    pub at: u64,
    /// Why, as in [`GuardReport::reason`].
    pub reason: String,
    /// Such as `- 198.51.100.0/24 to east`.
    pub change: String,
}

/// The platform's root certificate, and how far it is with being replaced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuthorityView {
    pub phase: RotationPhase,
    /// Under which certificates are issued now.
    pub root: RootView,
    /// Trusted beside it: the next one when announced, the one before when overlapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<RootView>,
    /// When the phase ends, in Unix seconds, if control is not away until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_ends_at: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RotationPhase {
    /// There is one root.
    Settled,
    /// The next root is handed out; the old one signs.
    Announced,
    /// The new root signs; the old one is trusted still.
    Overlapping,
}

/// A root certificate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RootView {
    /// SHA-256, hex.
    pub fingerprint: String,
    /// Unix seconds.
    pub ends_at: u64,
    /// The root before it has signed it, so that whoever trusts only that one accepts it.
    pub linked: bool,
}

/// Begins to replace the root.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RotateRootRequest {
    /// Go on without the old root's signature where its key is not there.
    #[serde(default)]
    pub old_key_lost: bool,
}

/// How the servers reach each other through the mesh, and what is wrong with it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MeshExamination {
    pub servers: Vec<MeshServer>,
    pub findings: Vec<MeshFinding>,
}

/// A server's end of the mesh.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MeshServer {
    pub node: NodeName,
    pub region: RegionCode,
    /// The server answered.
    pub heard: bool,
    /// What its net process said; absent if that did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<MeshReport>,
}

/// What a net process knows of its part in the mesh.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MeshReport {
    /// `kernel` or `userspace`; absent where there is no link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// UDP.
    pub port: u16,
    /// The largest packet that the link takes, in bytes.
    pub mtu: u16,
    /// When the process's certificate ends, in seconds since 1970.
    pub certificate_expires_at: u64,
    /// Pairs of other servers for which it relays.
    #[serde(default)]
    pub relaying: usize,
    pub ways: Vec<MeshWay>,
}

/// The way from one server to another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MeshWay {
    pub node: NodeName,
    /// Where it spoke from last, or is said to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<SocketAddr>,
    /// When keys were last agreed on, in seconds since 1970; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<u64>,
    /// When the certificate ends under which the secret was made that both share, in seconds since 1970; absent
    /// before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_until: Option<u64>,
    /// Who relays packets to it, and since when, in seconds since 1970, and why, where this server decides that;
    /// absent while they go directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<MeshRelay>,
    /// The round trip beside the mesh, directly, in milliseconds; absent if there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_round_trip_ms: Option<f64>,
    /// The largest IP packet that goes directly, in bytes; absent until that was found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// It answers probes; absent until it had time to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
    /// Smoothed, in milliseconds.
    pub round_trip_ms: f64,
    /// Share of recent probes without an answer, 0 to 1.
    pub loss: f32,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// A third server, over which packets go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MeshRelay {
    pub node: NodeName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Something that is wrong, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MeshFinding {
    pub node: NodeName,
    /// The other end of the way, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub towards: Option<NodeName>,
    pub problem: String,
    pub advice: String,
}

/// An image of the platform's registry in full.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageDetails {
    pub name: String,
    /// Of the manifest.
    pub digest: String,
    /// Packed.
    pub bytes: u64,
    /// Digests of the unpacked layers, lowest first.
    pub layers: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    /// Such as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CollectReply {
    pub blobs_removed: u64,
    pub bytes_freed: u64,
}

/// One line of `GET /api/v1/apps/{app}/logs` (JSON lines).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogRecord {
    pub timestamp_ms: u64,
    pub app: AppName,
    pub machine: MachineId,
    pub region: RegionCode,
    /// `stdout`, `stderr` or `atoll`.
    pub stream: String,
    pub message: String,
}

/// Frames of `GET /api/v1/apps/{app}/machines/{id}/console` (WebSocket): text frames carry this as
/// JSON, binary frames carry the terminal's bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ConsoleControl {
    /// Client to server, first frame.
    Start {
        command: Vec<String>,
        tty: bool,
        rows: u16,
        columns: u16,
    },
    Resize {
        rows: u16,
        columns: u16,
    },
    Signal {
        signal: i32,
    },
    CloseStdin,
    /// Server to client, last frame.
    Exit {
        code: i32,
    },
    /// Server to client, last frame.
    Error {
        error: String,
    },
}
