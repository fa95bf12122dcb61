//! The seam between the executor and the platform: what can be done and seen, without when and why.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::{ControlError, Kind};
use atoll_model::machine::CheckResult;
use atoll_model::{AppName, MachineId, MachineState, NodeName};
use atoll_rollout::Effect;
use atoll_rollout::deploy::Existing;
use atoll_rollout::gate::LastExit;
use atoll_rollout::placement::NodeRoom;
use atoll_store::{Release, StoreError};

/// Something could not be done or seen.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Setback {
    /// For people.
    pub reason: String,
    /// The same attempt may succeed a little later.
    pub is_transient: bool,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Setback {
    pub fn lasting(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_transient: false, source: None }
    }

    pub fn transient(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_transient: true, source: None }
    }
}

impl From<ControlError> for Setback {
    fn from(error: ControlError) -> Self {
        // Somebody else's lease or update of the machine ends by itself.
        let is_transient = error.is_transient() || error.kind == Kind::Conflict;
        Self { reason: error.message.clone(), is_transient, source: Some(Box::new(error)) }
    }
}

impl From<StoreError> for Setback {
    fn from(error: StoreError) -> Self {
        ControlError::from(error).into()
    }
}

/// A machine as it is seen at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Sight {
    pub state: MachineState,
    /// Tells one run of the machine from the next.
    pub boot_id: Option<String>,
    /// Ends of its process that nobody asked for, since it got its present version.
    pub exits: u32,
    pub last_exit: Option<LastExit>,
    /// Internal ports of services, each with whether it accepts.
    pub ports: Vec<(u16, bool)>,
    pub checks: Vec<CheckResult>,
}

/// The platform. Every effect is idempotent: performed again after a crash it changes nothing more.
#[async_trait]
pub trait World: Send + Sync {
    /// The nodes with the room that they have, for machines of `app`.
    async fn nodes(&self, app: &AppName) -> Result<Vec<NodeRoom>, Setback>;

    /// The app's machines that deploys made.
    async fn machines(&self, app: &AppName) -> Result<Vec<Existing>, Setback>;

    /// Those of the nodes that do not answer now.
    async fn silent(&self, nodes: &BTreeSet<NodeName>) -> BTreeSet<NodeName>;

    /// Returns when a node has the image of a release.
    async fn prepare(&self, node: &NodeName, release: &Release) -> Result<(), Setback>;

    /// The app's record has changed: whoever routes by it is told.
    async fn announce(&self, app: &AppName) -> Result<(), Setback>;

    /// Performs an effect that is no wait. `release`: the one that the effect names, if it names one.
    async fn apply(&self, app: &AppName, effect: &Effect, release: Option<&Release>) -> Result<(), Setback>;

    async fn observe(&self, app: &AppName, machine: MachineId) -> Result<Sight, Setback>;

    /// Starts a machine that rests.
    async fn start(&self, app: &AppName, machine: MachineId) -> Result<(), Setback>;

    /// Returns when every edge routes by the machine's present row.
    async fn barrier(&self, app: &AppName, machine: MachineId, limit: Duration) -> Result<(), Setback>;

    /// Returns when nothing is open any more on a machine that gets no new requests, or when those who
    /// are still there had their time: the machine's kill timeout.
    async fn drain(&self, app: &AppName, machine: MachineId) -> Result<(), Setback>;

    /// The end of a machine's log.
    async fn last_lines(&self, app: &AppName, machine: MachineId, count: u32) -> Result<Vec<String>, Setback>;
}
