//! Whose rows count: control's word on nodes and their epochs. A node that was revoked, removed or
//! raised to a new epoch is fenced: what it wrote before is void, by whatever path it comes.

use std::collections::BTreeMap;

use atoll_model::row::{NodeRow, NodeState};
use atoll_model::{NodeName, Owner};

/// What control's node rows say. Before control's first word every node is believed: an edge that
/// starts while control is dead has nothing else.
#[derive(Default)]
pub(super) struct Fences {
    control_is_known: bool,
    nodes: BTreeMap<NodeName, NodeRow>,
}

impl Fences {
    pub fn control_is_known(&mut self) {
        self.control_is_known = true;
    }

    pub fn put(&mut self, row: NodeRow) {
        self.nodes.insert(row.name.clone(), row);
    }

    pub fn remove(&mut self, node: &NodeName) {
        self.nodes.remove(node);
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeRow> {
        self.nodes.values()
    }

    /// Whether rows that `owner` wrote in `epoch` count.
    pub fn admits(&self, owner: &Owner, epoch: u64) -> bool {
        match owner {
            Owner::Control => true,
            Owner::Node(_) if !self.control_is_known => true,
            Owner::Node(name) => {
                self.nodes.get(name).is_some_and(|node| node.state != NodeState::Revoked && epoch >= node.epoch)
            }
        }
    }
}
