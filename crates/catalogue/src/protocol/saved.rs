//! What a process keeps of its replica between two lives: rows by owner, with the position they
//! reflect.

use std::collections::BTreeMap;

use atoll_model::row::MachineRow;
use atoll_model::{Owner, Row, RowKey, RowVersion};
use bytes::Bytes;

use super::message::Positions;
use crate::snapshot::Snapshot;

/// A replica at one moment. Cheap to take: rows are shared with the view.
pub struct Saved {
    pub(super) positions: Positions,
    pub(super) view: Snapshot,
    /// Machine rows that stand behind another node's claim to the same machine.
    pub(super) shadowed: Vec<MachineRow>,
}

/// One owner's rows, encoded.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SavedOwner {
    pub position: RowVersion,
    pub rows: Vec<(RowKey, Bytes)>,
}

impl Saved {
    /// Encodes all rows, which takes a while when there are many: not for the replica's own task.
    pub fn by_owner(&self) -> BTreeMap<Owner, SavedOwner> {
        let empty = |(owner, position): (&Owner, &RowVersion)| {
            (owner.clone(), SavedOwner { position: *position, rows: Vec::new() })
        };
        let mut owners: BTreeMap<Owner, SavedOwner> = self.positions.iter().map(empty).collect();
        let machines = self.view.machines().map(|row| MachineRow::clone(row)).chain(self.shadowed.iter().cloned());
        let rows = (self.view.apps().map(|row| Row::App(row.as_ref().clone())))
            .chain(self.view.nodes().map(|row| Row::Node(row.as_ref().clone())))
            .chain(self.view.certificates().map(|row| Row::Certificate(row.as_ref().clone())))
            .chain(self.view.devices().map(|row| Row::Device(row.as_ref().clone())))
            .chain(self.view.challenges().map(|row| Row::Challenge(row.as_ref().clone())))
            .chain(machines.map(Row::Machine));
        for row in rows {
            // Every row in a view came with its owner's position.
            if let Some(owner) = owners.get_mut(&row.rightful_owner()) {
                owner.rows.push((row.key(), row.encode().into()));
            }
        }
        owners
    }
}
