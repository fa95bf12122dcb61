//! What the edge asks of the program around it. The proxy knows no store, no control process and no
//! RPC: it sees the catalogue, the worker of its own node and the platform's identities only through
//! these traits.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use atoll_catalogue::Snapshot;
use atoll_catalogue::watch::ReplicaHandle;
use atoll_model::{AppName, MachineId, MachineVersion, NodeName, RegionCode};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Everything an edge needs from outside.
#[derive(Clone)]
pub struct Surroundings {
    pub routes: Arc<dyn Routes>,
    pub worker: Arc<dyn Waker>,
    /// `None`: this edge talks to no other one (a platform of one node).
    pub backhaul: Option<Arc<dyn BackhaulTls>>,
    pub access_log: Arc<dyn AccessLog>,
    /// A Unix socket that takes WebSockets of users' devices; `None`: this server lets none in.
    pub devices: Option<PathBuf>,
    /// `None`: this edge takes no requests for the platform's API.
    pub api: Option<Arc<dyn PlatformApi>>,
}

/// The replicated catalogue.
pub trait Routes: Send + Sync + 'static {
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Marked changed after every new snapshot; held requests look again then.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// A catalogue that is set from outside.
pub struct SharedRoutes {
    snapshot: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
}

impl SharedRoutes {
    pub fn new(snapshot: Snapshot) -> Self {
        Self { snapshot: ArcSwap::from_pointee(snapshot), generation: watch::Sender::new(0) }
    }

    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.generation.send_modify(|generation| *generation += 1);
    }
}

impl Routes for SharedRoutes {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}

impl Routes for ReplicaHandle {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.subscribe()
    }
}

/// The worker of the edge's own node.
#[async_trait]
pub trait Waker: Send + Sync + 'static {
    /// Starts the machine if it does not run, and returns when `port` accepts connections.
    async fn wake(&self, machine: MachineId, port: u16, limit: Duration) -> Result<Woken, WakeError>;

    /// Stops or suspends a machine that has been idle. Returns when that is recorded.
    async fn idle(&self, machine: MachineId, version: MachineVersion, suspend: bool) -> Result<(), IdleError>;

    /// The present load of this node's machines; replaces the report before it, machines that are not
    /// in it have none. Must not block.
    fn report_load(&self, loads: Vec<MachineLoad>);
}

/// A machine answers on its port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Woken {
    /// Whether this call found it stopped.
    pub started: bool,
}

/// Why a machine could not be woken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WakeError {
    #[error("machine {0} is not on this node")]
    NotFound(MachineId),
    #[error("machine {machine} cannot be started in state {state}")]
    NotStartable { machine: MachineId, state: String },
    #[error("machine {0} did not answer in time")]
    TimedOut(MachineId),
    #[error("the worker could not start machine {machine}: {reason}")]
    Failed { machine: MachineId, reason: String },
    /// Worth trying again shortly.
    #[error("the worker of this node does not answer: {0}")]
    Unavailable(String),
}

/// Why an idle machine was not stopped. The machine stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("machine {machine} was not stopped: {reason}")]
pub struct IdleError {
    pub machine: MachineId,
    pub reason: String,
}

/// Open requests or connections of one machine, by service index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineLoad {
    pub machine: MachineId,
    pub loads: Vec<u32>,
    /// It is cordoned as far as this edge knows: nobody enters any more.
    pub closed: bool,
}

/// TLS between edges, both sides known by the platform's node identities.
pub trait BackhaulTls: Send + Sync + 'static {
    /// For accepting other edges; must ask for a client certificate and not resume sessions.
    fn server(&self) -> Arc<rustls::ServerConfig>;

    /// For connecting to another edge; must present this node's certificate and not resume sessions.
    fn client(&self) -> Arc<rustls::ClientConfig>;

    /// The name to ask `node` for in the handshake.
    fn server_name(&self, node: &NodeName) -> ServerName<'static>;

    /// Whose certificate this is; `None` when it is no node of the platform.
    fn identify(&self, chain: &[CertificateDer<'_>]) -> Option<NodeName>;
}

/// The way to the platform's own API.
#[async_trait]
pub trait PlatformApi: Send + Sync + 'static {
    /// A new connection that takes HTTP/1.1 requests, and on which this edge has proven itself: what it says of
    /// clients in headers is believed. Must not wait for longer than a user would.
    async fn connect(&self) -> io::Result<Box<dyn ByteStream>>;
}

/// What a connection can do.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// Takes one entry for each finished request. Must not block.
pub trait AccessLog: Send + Sync + 'static {
    fn record(&self, entry: &AccessEntry);
}

/// Drops every entry.
pub struct NoAccessLog;

impl AccessLog for NoAccessLog {
    fn record(&self, _: &AccessEntry) {}
}

/// One finished request (or upgraded connection) as the edge saw it.
#[derive(Clone, Debug)]
pub struct AccessEntry {
    /// When its headers had been read.
    pub time: SystemTime,
    pub client: IpAddr,
    pub request_id: String,
    pub app: Option<AppName>,
    pub machine: Option<MachineId>,
    /// Region of the machine.
    pub region: Option<RegionCode>,
    /// Region of this edge.
    pub edge: RegionCode,
    pub method: http::Method,
    pub version: http::Version,
    pub host: String,
    /// Path without the query, which may hold secrets.
    pub path: String,
    pub status: u16,
    /// `PR03` and the like, where the edge itself answered.
    pub error: Option<&'static str>,
    /// Attempts beyond the first.
    pub retries: u32,
    /// How long it waited for the machine to start; `None`: the machine ran.
    pub wake: Option<Duration>,
    /// From the request's headers to the response's.
    pub first_byte: Duration,
    /// From the request's headers to the end of the response.
    pub total: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
}
