//! What the agent needs from others, as traits: images, networks, sealing, row publication, and a
//! hook that sees each recorded step. Product implementations come from other crates or from
//! [`crate::network`]; tests bring faithful fakes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use atoll_driver::Driver;
use atoll_model::address::NetworkId;
use atoll_model::policy::NetworkLimits;
use atoll_model::{MachineId, Row, RowKey};

use crate::clock::Clock;

/// Everything an agent works with.
#[derive(Clone)]
pub struct Deps {
    pub driver: Arc<dyn Driver>,
    pub images: Arc<dyn ImageProvider>,
    pub networks: Arc<dyn MachineNetworks>,
    pub seal: Arc<dyn BundleSeal>,
    pub rows: Arc<dyn RowSink>,
    pub clock: Arc<dyn Clock>,
    pub steps: Arc<dyn StepHook>,
}

/// An image could not be made ready.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ImageError {
    pub reason: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// An unpacked image.
#[derive(Clone, Debug, Default)]
pub struct PreparedImage {
    /// Lowest first.
    pub layers: Vec<PathBuf>,
    pub config: ImageProcess,
    /// 0 when everything was here already.
    pub bytes_fetched: u64,
}

/// What the image says of its process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageProcess {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub working_dir: String,
    pub user: String,
}

/// Makes images ready by digest.
#[async_trait]
pub trait ImageProvider: Send + Sync {
    /// Fetches and unpacks what is missing; an image that is present costs no more than a look.
    /// `reference` says where it was found, and is never resolved again.
    async fn ensure(&self, reference: &str, digest: &str) -> Result<PreparedImage, ImageError>;

    /// The digests that machines of this node need; collection must spare them. Replaces the set before.
    /// Before the first call it is not known what they need: nothing may be collected.
    fn pin(&self, digests: Vec<String>);
}

/// A machine's network could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct NetworkError {
    pub action: String,
    #[source]
    pub source: std::io::Error,
}

/// What a machine needs of the network; all names derive from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkPlan {
    pub machine: MachineId,
    /// Number of the machine on this node; decides its private IPv4 address and interface name.
    pub slot: u32,
    pub network: NetworkId,
    pub ipv6: Ipv6Addr,
}

/// Network namespaces of machines. All calls are idempotent.
#[async_trait]
pub trait MachineNetworks: Send + Sync {
    /// The private IPv4 address of a slot; the same for as long as the node's block stays.
    fn ipv4(&self, slot: u32) -> Ipv4Addr;

    /// How many slots there are.
    fn capacity(&self) -> u32;

    /// Makes a fresh namespace for one start and returns its path.
    async fn attach(&self, plan: &NetworkPlan) -> Result<PathBuf, NetworkError>;

    /// Holds the run that is attached to network policies and to the addresses that it leaves under: before
    /// its processes start, and again when they change. Connections that are open then stay open, under the
    /// address that they began with.
    async fn limit(&self, plan: &NetworkPlan, limits: &NetworkLimits) -> Result<(), NetworkError>;

    /// Removes the machine's namespace, interfaces and routes.
    async fn detach(&self, plan: &NetworkPlan) -> Result<(), NetworkError>;

    /// Announces all machines of the node: isolation rules are made for their networks, and what
    /// belongs to no machine is removed.
    async fn reconcile(&self, plans: &[NetworkPlan]) -> Result<(), NetworkError>;

    /// Lets machines of this network reach each other on this node; called before its first start.
    async fn admit(&self, network: NetworkId) -> Result<(), NetworkError>;
}

/// A bundle could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SealError {
    pub reason: String,
}

/// Seals launch bundles to the node's key; `context` binds a sealed text to its machine.
pub trait BundleSeal: Send + Sync {
    fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError>;
    fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError>;
}

/// Where the rows of this node's machines go. Must not block; the last put of a key wins.
pub trait RowSink: Send + Sync {
    fn put(&self, row: Row);
    fn delete(&self, key: RowKey);
}

/// Sees each durable step after it was recorded and before anybody is told. Crash tests stop the
/// agent here; the product does nothing.
#[async_trait]
pub trait StepHook: Send + Sync {
    async fn recorded(&self, step: &str);
}

/// The product's hook.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

#[async_trait]
impl StepHook for NoHook {
    async fn recorded(&self, _step: &str) {}
}
