//! The invariants, judged from outside by what was really written.

use std::collections::BTreeMap;

use atoll_catalogue::Snapshot;
use atoll_catalogue::protocol::barrier::Target;
use atoll_model::row::{MachineRow, Row};
use atoll_model::{MachineId, NodeName, Owner, RowKey, RowVersion};
use std::time::Duration;

use crate::net::Chance;
use crate::world::{What, World, stamp_of};

/// A write, with what it left to be seen: `None` when deleted, or a row without a stamp.
type Stamped = (RowVersion, Option<u64>);

/// All writes that ever were, and the barriers that were closed.
#[derive(Default)]
pub struct History {
    writes: BTreeMap<(RowKey, Owner), Vec<Stamped>>,
    order: Vec<(RowKey, Owner, RowVersion)>,
    closed: BTreeMap<(RowKey, Owner), RowVersion>,
}

impl History {
    pub fn wrote(&mut self, key: RowKey, owner: Owner, version: RowVersion, stamp: Option<u64>) {
        self.writes.entry((key.clone(), owner.clone())).or_default().push((version, stamp));
        self.order.push((key, owner, version));
    }

    /// An owner's log was made anew: machines that it no longer has are gone without a delete.
    pub fn began_again(&mut self, owner: &Owner, at: RowVersion, has: &BTreeMap<MachineId, MachineRow>) {
        for ((key, written_by), writes) in &mut self.writes {
            if let RowKey::Machine(id) = key
                && written_by == owner
                && !has.contains_key(id)
            {
                writes.push((at, None));
            }
        }
    }

    pub fn last(&self) -> Option<(RowKey, Owner, RowVersion)> {
        self.order.last().cloned()
    }

    /// One of the last writes.
    pub fn recent(&self, chance: &mut Chance) -> Option<(RowKey, Owner, RowVersion)> {
        let back = chance.below(4) as usize + 1;
        let write = &self.order[self.order.len().checked_sub(back)?];
        Some(write.clone())
    }

    pub fn closed(&mut self, target: Target) {
        let closed = self.closed.entry((target.key, target.owner)).or_default();
        *closed = target.version.max(*closed);
    }
}

impl World {
    /// Once a barrier is closed, no edge holds a lease by its own clock without serving by it.
    pub fn check(&mut self) -> Result<(), String> {
        self.queue.at(self.now + Duration::from_millis(50), What::Check);
        for edge in self.edges.iter().filter(|edge| edge.life.up && edge.lease.holds(edge.life.clock.at(self.now))) {
            for ((key, owner), version) in &self.history.closed {
                if self.is_void(owner, *version) || self.serves(&edge.served, key, owner, *version) {
                    continue;
                }
                return Err(format!(
                    "{:?}: {} is leased and does not serve by {key} {version} of {owner}, whose barrier was closed",
                    self.now, edge.name
                ));
            }
        }
        Ok(())
    }

    fn is_void(&self, owner: &Owner, version: RowVersion) -> bool {
        match owner {
            Owner::Control => false,
            Owner::Node(name) => self.store.nodes[name].epoch > version.epoch || self.broke_its_promise(name),
        }
    }

    /// A worker whose old disk was put back and whose clock was set back, both, numbers its rows anew
    /// until a watcher tells it: of that time nothing is promised but that it ends.
    fn broke_its_promise(&self, name: &NodeName) -> bool {
        self.workers.iter().filter(|worker| worker.name == *name).any(|worker| {
            let seen = self.edges.iter().filter_map(|edge| edge.serves.get(worker.log.owner()));
            let hubs = self.controls.iter().filter_map(|control| control.hub.positions().get(worker.log.owner()));
            seen.chain(hubs).any(|seen| seen.epoch == worker.epoch && worker.log.is_behind(*seen))
        })
    }

    fn serves(&self, view: &Snapshot, key: &RowKey, owner: &Owner, version: RowVersion) -> bool {
        let row = match key {
            RowKey::App(name) => view.app(name).map(|row| Row::App(row.as_ref().clone())),
            RowKey::Machine(id) => view.machine(id).map(|row| Row::Machine(MachineRow::clone(row))),
            // Nodes' rows have no stamps.
            RowKey::Node(_) | RowKey::Certificate(_) | RowKey::Device(_) | RowKey::Challenge(_) => return true,
        };
        // Another node's newer claim to the machine goes first.
        if row.as_ref().is_some_and(|row| row.rightful_owner() != *owner) {
            return true;
        }
        let stamp = row.as_ref().and_then(stamp_of);
        let writes = self.history.writes.get(&(key.clone(), owner.clone())).map_or(&[][..], Vec::as_slice);
        let may_be = |(written, value): &Stamped| *written >= version && *value == stamp;
        writes.iter().any(may_be)
    }

    /// Long after the last fault everybody serves what the owners have.
    pub fn check_convergence(&self) -> Result<(), String> {
        let mut machines: BTreeMap<MachineId, &MachineRow> = BTreeMap::new();
        for row in self.workers.iter().flat_map(|worker| worker.machines.values()) {
            let known = machines.entry(row.id).or_insert(row);
            if (row.version, &row.node) > (known.version, &known.node) {
                *known = row;
            }
        }
        for worker in &self.workers {
            if worker.epoch != self.store.nodes[&worker.name].epoch {
                return Err(format!("{} never took up its new epoch", worker.name));
            }
        }
        for edge in &self.edges {
            let served: BTreeMap<MachineId, &MachineRow> =
                edge.served.machines().map(|row| (row.id, row.as_ref())).collect();
            if served != machines {
                return Err(format!("{} serves other machines than there are:\n{served:?}\n{machines:?}", edge.name));
            }
            for (key, body) in self.store.control.log().live() {
                let row = Row::decode(key, &Owner::Control, body).unwrap();
                let same = match &row {
                    Row::App(row) => edge.served.app(&row.name).map(|served| **served == *row),
                    Row::Node(row) => edge.served.node(&row.name).map(|served| **served == *row),
                    Row::Machine(_) | Row::Certificate(_) | Row::Device(_) | Row::Challenge(_) => None,
                };
                if same != Some(true) {
                    return Err(format!("{} does not serve by {key}", edge.name));
                }
            }
        }
        if let Some(open) = self.store.book.open.first() {
            return Err(format!("the barrier on {} never closed", open.target.key));
        }
        Ok(())
    }
}
