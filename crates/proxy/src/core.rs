//! What the parts of one edge share, and what belongs to each of its cores.

use std::sync::Arc;

use arc_swap::ArcSwap;
use atoll_model::reach::Reachability;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backhaul::Peers;
use crate::body::ReplayBudget;
use crate::config::EdgeConfig;
use crate::counters::Counters;
use crate::departure::Departure;
use crate::front::ApiPool;
use crate::node::{Machines, Pool, PoolKey};
use crate::surroundings::Surroundings;

/// Shared by all cores.
pub(crate) struct Edge {
    pub config: EdgeConfig,
    pub surroundings: Surroundings,
    pub counters: Arc<Counters>,
    /// Round trips to other nodes, as probed from here.
    pub reachability: Arc<ArcSwap<Reachability>>,
    pub machines: Machines,
    pub replay: Arc<ReplayBudget>,
    pub shutdown: Shutdown,
    pub departure: Departure,
    /// Every connection and tunnel of a client or another edge.
    pub tasks: TaskTracker,
}

/// The steps in which an edge ends. Each implies the ones before.
#[derive(Clone, Default)]
pub(crate) struct Shutdown {
    /// Nothing new is accepted; answers ask their client to come back on a new connection.
    pub drain: CancellationToken,
    /// Idle connections are closed.
    pub close_idle: CancellationToken,
    /// Everything ends now.
    pub end: CancellationToken,
}

/// One single-threaded runtime's own things.
pub(crate) struct Core {
    pub edge: Arc<Edge>,
    pub pool: Arc<Pool<PoolKey>>,
    pub api: Arc<ApiPool>,
    /// Connections to control that may still be opened.
    pub api_places: Arc<Semaphore>,
    pub peers: Peers,
}
