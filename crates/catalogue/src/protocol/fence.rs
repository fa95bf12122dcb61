//! Whose rows count: control's word on nodes and their epochs. A node that was revoked, removed or
//! raised to a new epoch is fenced: what it wrote before is void, by whatever path it comes.

use std::collections::HashMap;

use atoll_model::row::{NodeRow, NodeState};
use atoll_model::{NodeName, Owner};

/// What control's node rows say. Before control's first word every node is believed: an edge that
/// starts while control is dead has nothing else.
#[derive(Default)]
pub(super) struct Fences {
    control_is_known: bool,
    /// Lowest epoch that counts; `None` for a revoked node.
    epochs: HashMap<NodeName, Option<u64>>,
}

impl Fences {
    pub fn control_is_known(&mut self) {
        self.control_is_known = true;
    }

    pub fn put(&mut self, row: &NodeRow) {
        let epoch = (row.state != NodeState::Revoked).then_some(row.epoch);
        self.epochs.insert(row.name.clone(), epoch);
    }

    pub fn remove(&mut self, node: &NodeName) {
        self.epochs.remove(node);
    }

    /// Whether rows that `owner` wrote in `epoch` count.
    pub fn admits(&self, owner: &Owner, epoch: u64) -> bool {
        match owner {
            Owner::Control => true,
            Owner::Node(_) if !self.control_is_known => true,
            Owner::Node(node) => self.epochs.get(node).copied().flatten().is_some_and(|lowest| epoch >= lowest),
        }
    }
}
