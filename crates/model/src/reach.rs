//! How well this node reaches the others: one immutable snapshot, measured by probes, read by
//! proxy, DNS and anycast.

use std::collections::HashMap;
use std::time::Duration;

use crate::NodeName;

/// What probes say about one other node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// Smoothed round trip.
    pub round_trip: Duration,
    /// Share of recent probes without an answer, 0.0 to 1.0.
    pub loss: f32,
    /// Whether the node answered recently enough to be sent traffic.
    pub reachable: bool,
}

/// Paths from this node to every other one that was probed for long enough to tell.
#[derive(Clone, Debug, Default)]
pub struct Reachability {
    pub paths: HashMap<NodeName, Path>,
}

impl Reachability {
    /// The round trip to a node that answers; `None` when it does not or was never probed.
    pub fn round_trip(&self, node: &NodeName) -> Option<Duration> {
        self.paths.get(node).filter(|path| path.reachable).map(|path| path.round_trip)
    }
}
