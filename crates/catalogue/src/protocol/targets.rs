//! Whom an edge watches: always one hub, and directly the workers of its own region. When no hub is
//! heard it watches every worker, so that a machine that crashes while control is dead leaves the
//! routing all the same.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_model::row::{NodeRow, NodeState};
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
    /// The one watched now, and since when.
    pub hub: usize,
    pub hub_since: Duration,
    /// When any hub was last heard, or the process began.
    pub heard_at: Duration,
    pub now: Duration,
}

/// The watches that should be open now. Names the next hub when the present one had its time.
pub fn watch_targets(situation: &Situation) -> BTreeSet<Target> {
    let Situation { view, region, hubs, hub, hub_since, heard_at, now } = *situation;
    let silent = |since: Duration| now.saturating_sub(since) >= SILENCE;
    let next = if silent(heard_at.max(hub_since)) { hub + 1 } else { hub };
    let wanted_hub = next.checked_rem(hubs).map(Target::Hub);
    let everywhere = wanted_hub.is_none() || silent(heard_at);
    let near = view.nodes().filter(|node| everywhere || node.region == region);
    wanted_hub.into_iter().chain(near.filter_map(|node| worker_target(node))).collect()
}

/// The watch of a node's worker, if there is one to be had.
pub fn worker_target(node: &NodeRow) -> Option<Target> {
    let address = node.worker_rpc.filter(|_| node.state != NodeState::Revoked)?;
    Some(Target::Worker { node: node.name.clone(), address })
}

#[cfg(test)]
mod tests {
    use atoll_model::Row;

    use super::*;

    fn view() -> Snapshot {
        let node = |name: &str, region: &str, state| {
            Row::Node(NodeRow {
                name: name.parse().unwrap(),
                region: region.parse().unwrap(),
                state,
                epoch: 1,
                backhaul: None,
                worker_rpc: Some("192.0.2.1:4281".parse().unwrap()),
                public_addresses: Vec::new(),
                egress_addresses: Vec::new(),
                mesh: None,
                gateway: None,
                zones: Vec::new(),
            })
        };
        Snapshot::from_rows([
            node("ams1", "ams", NodeState::Active),
            node("ams2", "ams", NodeState::Draining),
            node("ams3", "ams", NodeState::Revoked),
            node("nrt1", "nrt", NodeState::Active),
        ])
    }

    fn targets(hubs: usize, hub_since: u64, heard_at: u64, now: u64) -> Vec<String> {
        let [hub_since, heard_at, now] = [hub_since, heard_at, now].map(Duration::from_millis);
        let region = "ams".parse().unwrap();
        let situation = Situation { view: &view(), region, hubs, hub: 0, hub_since, heard_at, now };
        let name = |target: Target| match target {
            Target::Hub(number) => format!("hub{number}"),
            Target::Worker { node, .. } => node.to_string(),
        };
        watch_targets(&situation).into_iter().map(name).collect()
    }

    #[test]
    fn a_heard_hub_and_the_own_region_are_enough() {
        assert_eq!(targets(2, 0, 9_000, 10_999), ["hub0", "ams1", "ams2"]);
    }

    #[test]
    fn with_silent_hubs_every_worker_is_watched_and_the_next_hub_tried_in_its_turn() {
        assert_eq!(targets(2, 0, 9_000, 11_000), ["hub1", "ams1", "ams2", "nrt1"]);
        assert_eq!(targets(2, 10_500, 9_000, 11_000), ["hub0", "ams1", "ams2", "nrt1"]);
        assert_eq!(targets(1, 0, 9_000, 11_000), ["hub0", "ams1", "ams2", "nrt1"]);
    }

    #[test]
    fn without_any_hub_all_workers_are_watched() {
        assert_eq!(targets(0, 0, 0, 0), ["ams1", "ams2", "nrt1"]);
    }
}
