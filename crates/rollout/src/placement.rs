//! Which nodes get an app's new machines: spread first, then room, then a seeded tie-break.

use std::hash::{DefaultHasher, Hash, Hasher};

use atoll_model::{NodeName, RegionCode};
use serde::{Deserialize, Serialize};

/// A node as placement sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRoom {
    pub name: NodeName,
    pub region: RegionCode,
    /// Takes new machines: neither draining nor revoked nor unreachable.
    pub active: bool,
    pub free_memory_mb: u64,
    /// Thousandths of a CPU.
    pub free_cpu_milli: u64,
    /// Machines of this app that it has already.
    pub machines_of_app: u32,
}

/// What one machine takes of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Room {
    pub memory_mb: u64,
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlacementError {
    #[error("no node is in region {region}; there are nodes in {}", list(.known))]
    UnknownRegion { region: RegionCode, known: Vec<RegionCode> },
    #[error("no node in region {region} takes new machines: all are draining or do not answer")]
    NoActiveNode { region: RegionCode },
    #[error("no node in region {region} has {needed} {resource} free; the most is {most}")]
    NoCapacity { region: RegionCode, resource: &'static str, needed: u64, most: u64 },
    #[error("no single node in region {region} has both {} MB of memory and {}/1000 CPU free", .room.memory_mb, .room.cpu_milli)]
    NoRoomTogether { region: RegionCode, room: Room },
}

fn list(regions: &[RegionCode]) -> String {
    match regions {
        [] => "no region yet".to_owned(),
        regions => regions.iter().map(RegionCode::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The nodes of a platform while machines are being placed on them.
#[derive(Clone, Debug)]
pub struct Placement {
    nodes: Vec<NodeRoom>,
    seed: u64,
}

impl Placement {
    /// Equal nodes are told apart by `seed`, so that not every app begins on the same one.
    pub fn new(nodes: Vec<NodeRoom>, seed: u64) -> Self {
        Self { nodes, seed }
    }

    /// The node for one more machine in `region`; its room is taken from then on.
    pub fn place(&mut self, region: RegionCode, room: Room) -> Result<NodeName, PlacementError> {
        let seed = self.seed;
        let best = self
            .nodes
            .iter_mut()
            .filter(|node| node.region == region && node.active && node.has(room))
            .min_by_key(|node| (node.machines_of_app, u64::MAX - node.free_memory_mb, tie_break(seed, &node.name)));
        let Some(node) = best else { return Err(self.refusal(region, room)) };
        node.free_memory_mb -= room.memory_mb;
        node.free_cpu_milli -= room.cpu_milli;
        node.machines_of_app += 1;
        Ok(node.name.clone())
    }

    fn refusal(&self, region: RegionCode, room: Room) -> PlacementError {
        let here: Vec<&NodeRoom> = self.nodes.iter().filter(|node| node.region == region).collect();
        if here.is_empty() {
            let mut known: Vec<RegionCode> = self.nodes.iter().map(|node| node.region).collect();
            known.sort_unstable();
            known.dedup();
            return PlacementError::UnknownRegion { region, known };
        }
        let active = || here.iter().filter(|node| node.active);
        let (Some(memory), Some(cpu)) =
            (active().map(|node| node.free_memory_mb).max(), active().map(|node| node.free_cpu_milli).max())
        else {
            return PlacementError::NoActiveNode { region };
        };
        if memory < room.memory_mb {
            return PlacementError::NoCapacity {
                region,
                resource: "MB of memory",
                needed: room.memory_mb,
                most: memory,
            };
        }
        if cpu < room.cpu_milli {
            return PlacementError::NoCapacity {
                region,
                resource: "thousandths of a CPU",
                needed: room.cpu_milli,
                most: cpu,
            };
        }
        PlacementError::NoRoomTogether { region, room }
    }
}

impl NodeRoom {
    fn has(&self, room: Room) -> bool {
        self.free_memory_mb >= room.memory_mb && self.free_cpu_milli >= room.cpu_milli
    }
}

/// `DefaultHasher::new` has fixed keys: the same on every node and after every restart.
fn tie_break(seed: u64, name: &NodeName) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, name).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, region: &str, memory: u64) -> NodeRoom {
        NodeRoom {
            name: name.parse().unwrap(),
            region: region.parse().unwrap(),
            active: true,
            free_memory_mb: memory,
            free_cpu_milli: 1000,
            machines_of_app: 0,
        }
    }

    const SMALL: Room = Room { memory_mb: 256, cpu_milli: 62 };

    #[test]
    fn machines_spread_before_they_pile_up() {
        let mut placement = Placement::new(vec![node("big", "ams", 9000), node("small", "ams", 600)], 1);
        let ams = "ams".parse().unwrap();
        let mut chosen: Vec<String> = (0..4).map(|_| placement.place(ams, SMALL).unwrap().to_string()).collect();
        chosen.sort();
        assert_eq!(chosen, ["big", "big", "small", "small"]);
    }

    #[test]
    fn the_same_seed_gives_the_same_choice_and_seeds_differ() {
        let ams = "ams".parse().unwrap();
        let choice = |seed| {
            let nodes = (0..8).map(|n| node(&format!("n{n}"), "ams", 1000)).collect();
            Placement::new(nodes, seed).place(ams, SMALL).unwrap()
        };
        assert_eq!(choice(7), choice(7));
        assert!((0..20).any(|seed| choice(seed) != choice(7)));
    }

    #[test]
    fn refusals_name_what_is_missing() {
        let mut away = node("c", "ord", 1000);
        away.active = false;
        let mut placement = Placement::new(vec![node("a", "ams", 100), node("b", "nrt", 1000), away], 1);
        let mut refusal = |region: &str, room| placement.place(region.parse().unwrap(), room).unwrap_err().to_string();
        assert_eq!(refusal("lhr", SMALL), "no node is in region lhr; there are nodes in ams, nrt, ord");
        assert_eq!(refusal("ams", SMALL), "no node in region ams has 256 MB of memory free; the most is 100");
        assert!(refusal("nrt", Room { cpu_milli: 2000, ..SMALL }).contains("thousandths of a CPU"));
        assert!(refusal("ord", SMALL).contains("draining"));
    }
}
