//! Whom an edge watches: always one hub, and directly the workers of its own region. When no hub is
//! heard it watches every worker, so that a machine that crashes while control is dead leaves the
//! routing all the same.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_model::row::NodeState;
use atoll_model::{NodeName, RegionCode};

use crate::snapshot::Snapshot;

/// A hub from which nothing came for this long counts as silent.
pub const SILENCE: Duration = Duration::from_secs(2);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Target {
    /// One of the configured control processes, by its number.
    Hub(usize),
    Worker {
        node: NodeName,
        address: SocketAddr,
    },
}

/// What the choice depends on. Times are of one steady clock.
pub struct Situation<'a> {
    pub view: &'a Snapshot,
    pub region: RegionCode,
    /// How many control processes are configured.
    pub hubs: usize,
    /// The one watched now, and when it was last heard, or chosen if not yet.
    pub hub: usize,
    pub heard_at: Duration,
    pub now: Duration,
}

/// The watches that should be open now.
pub fn watch_targets(situation: &Situation) -> BTreeSet<Target> {
    let Situation { view, region, hubs, hub, .. } = *situation;
    let silent = situation.is_silent();
    let wanted_hub = (hubs > 0).then(|| Target::Hub(if silent { (hub + 1) % hubs } else { hub }));
    let workers = view
        .nodes()
        .filter(|node| node.state != NodeState::Revoked && (silent || hubs == 0 || node.region == region))
        .filter_map(|node| Some(Target::Worker { node: node.name.clone(), address: node.worker_rpc? }));
    wanted_hub.into_iter().chain(workers).collect()
}

impl Situation<'_> {
    pub fn is_silent(&self) -> bool {
        self.now.saturating_sub(self.heard_at) >= SILENCE
    }
}
