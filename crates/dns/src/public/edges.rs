//! Which edges users are sent to where there is no anycast: live ones, near them.

use std::net::IpAddr;

use atoll_catalogue::Snapshot;
use atoll_model::RegionCode;
use atoll_model::reach::Reachability;
use atoll_model::row::{NodeRow, NodeState};

use crate::internal::Here;
use crate::place::Position;

/// Edges of a region in one answer.
const MAX_GIVEN: usize = 4;
/// Edges in an answer for everybody, such as a secondary's copy.
const MAX_FOR_ALL: usize = 8;
/// Nearness of an edge whose place is not known: beyond the other side of the globe.
const NOWHERE: f64 = -2.0;

/// How good it is to send users to an edge, the best first. An answer takes the best rank that any edge
/// has: one that may be lost is better than none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Rank {
    Serving,
    Draining,
    OutOfReach,
}

#[derive(Clone, Debug)]
struct Edge {
    rank: Rank,
    region: RegionCode,
    position: Option<Position>,
    addresses: Vec<IpAddr>,
}

/// All edges with public addresses, by rank, region and name.
#[derive(Clone, Debug)]
pub(super) struct Edges {
    edges: Vec<Edge>,
    /// Where somebody is taken to be whose place nobody knows: they found the way to this node.
    here: Option<Position>,
}

/// The two kinds of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

impl Edges {
    pub fn new(catalogue: &Snapshot, reach: &Reachability, here: &Here) -> Self {
        let rank = |node: &NodeRow| {
            let own = node.name == here.node;
            let lost = !own && reach.paths.get(&node.name).is_some_and(|path| !path.reachable);
            match node.state {
                NodeState::Revoked => None,
                _ if lost => Some(Rank::OutOfReach),
                NodeState::Active => Some(Rank::Serving),
                NodeState::Draining => Some(Rank::Draining),
            }
        };
        let nodes = catalogue.nodes().filter(|node| !node.public_addresses.is_empty());
        let mut ranked: Vec<_> = nodes.filter_map(|node| Some((rank(node)?, node.region, &node.name, node))).collect();
        ranked.sort_by_key(|(rank, region, name, _)| (*rank, *region, *name));
        let edge = |(rank, region, _, node): (Rank, RegionCode, _, &std::sync::Arc<NodeRow>)| Edge {
            rank,
            region,
            position: Position::of(region),
            addresses: node.public_addresses.clone(),
        };
        Self { edges: ranked.into_iter().map(edge).collect(), here: Position::of(here.region) }
    }

    /// The edges of the best rank that have addresses of a family.
    fn best(&self, family: Family) -> impl Iterator<Item = &Edge> {
        let with_family = move |edge: &&Edge| edge.addresses.iter().any(|address| family.has(address));
        let rank = self.edges.iter().find(with_family).map(|edge| edge.rank);
        self.edges.iter().filter(with_family).filter(move |edge| Some(edge.rank) == rank)
    }

    /// Addresses for somebody at a place: those of the nearest region, beginning with another one each turn.
    pub fn near(&self, place: Option<Position>, family: Family, turn: u16, give: impl FnMut(IpAddr)) {
        let place = place.or(self.here);
        let nearness = |edge: &Edge| place.zip(edge.position).map_or(NOWHERE, |(place, edge)| place.nearness(&edge));
        let mut nearest: Option<(f64, RegionCode)> = None;
        for edge in self.best(family) {
            let nearness = nearness(edge);
            if nearest.is_none_or(|(best, _)| nearness > best) {
                nearest = Some((nearness, edge.region));
            }
        }
        let Some((_, region)) = nearest else { return };
        let mut of_region: Vec<&Edge> = self.best(family).filter(|edge| edge.region == region).collect();
        let first = usize::from(turn) % of_region.len().max(1);
        of_region.rotate_left(first);
        let addresses = of_region.iter().flat_map(|edge| edge.addresses.iter().copied());
        addresses.filter(|address| family.has(address)).take(MAX_GIVEN).for_each(give);
    }

    /// Addresses for whoever asks a copy of the zone.
    pub fn for_all(&self, family: Family, give: impl FnMut(IpAddr)) {
        let addresses = self.best(family).flat_map(|edge| edge.addresses.iter().copied());
        addresses.filter(|address| family.has(address)).take(MAX_FOR_ALL).for_each(give);
    }
}
