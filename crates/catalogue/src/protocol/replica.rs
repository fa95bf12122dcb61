//! A watcher's copy of all owners' rows, fed by any number of paths in any order. It follows each
//! owner from one consistent state to a later one, refuses what may not be believed, and edits the
//! snapshot that the rest of the process reads.

use std::collections::{BTreeMap, HashMap, HashSet};

use atoll_model::row::MachineRow;
use atoll_model::{MachineId, NodeName, Owner, Row, RowKey, RowVersion};

use super::fence::Fences;
use super::inbox::{Batch, Inbox, PathId, Received};
use super::message::{Part, Positions, Write};
use super::saved::{Saved, SavedOwner};
use super::sense::{self, Refusal, RefusalCounts};
use crate::snapshot::{Editor, Snapshot};

/// Rows of one owner beyond this are refused.
const MAX_ROWS_PER_OWNER: usize = 1_000_000;
/// Owners remembered as turned away; others come back when their watch is opened next.
pub(super) const MAX_TURNED_AWAY: usize = 1024;

#[derive(Default)]
pub struct Replica {
    inbox: Inbox,
    fences: Fences,
    editor: Editor,
    /// The rows of each owner that are in the view or shadowed.
    keys: HashMap<Owner, HashSet<RowKey>>,
    /// Machines claimed by several nodes: the claims that lost. Two nodes can both show a machine
    /// while control re-creates it elsewhere, before it fenced the first.
    shadowed: BTreeMap<MachineId, BTreeMap<NodeName, MachineRow>>,
    /// Rows of which the newest value was refused.
    refused: BTreeMap<RowKey, Owner>,
    refusals: RefusalCounts,
    /// Owners whose rows were turned away, with the epoch; control may admit them yet.
    turned_away: BTreeMap<Owner, u64>,
}

/// What came of a received part.
#[derive(Default, Debug)]
pub struct Outcome {
    /// The copy moved on: swap the snapshot, then acknowledge.
    pub moved: bool,
    /// Rows that were put or removed.
    pub changed: Vec<RowKey>,
    pub refused: Vec<Refusal>,
    pub ask_again: AskAgain,
}

/// Whether watches must be opened again from the present positions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AskAgain {
    #[default]
    No,
    ThisPath,
    AllPaths,
}

impl Replica {
    pub fn view(&self) -> &Snapshot {
        self.editor.view()
    }

    pub fn positions(&self) -> &Positions {
        self.inbox.positions()
    }

    /// Rows served with an older value than their owner's, because the newer one was refused.
    pub fn refused_rows(&self) -> impl Iterator<Item = &RowKey> {
        self.refused.keys()
    }

    pub fn refusal_counts(&self) -> &RefusalCounts {
        &self.refusals
    }

    /// All that a later process needs to begin where this one is. Cheap: rows are shared.
    pub fn save(&self) -> Saved {
        let mut positions = self.positions().clone();
        // An owner with a refused row is asked for all its rows again, which may be read by then.
        for owner in self.refused.values() {
            if let Some(position) = positions.get_mut(owner) {
                position.sequence = 0;
            }
        }
        let shadowed = self.shadowed.values().flat_map(|claims| claims.values().cloned()).collect();
        Saved { positions, view: self.view().clone(), shadowed }
    }

    /// A replica that begins with saved rows; they pass the same checks as received ones.
    pub fn restore(mut saved: BTreeMap<Owner, SavedOwner>) -> Self {
        let mut replica = Self::default();
        // Control sorts first: what it fenced by the time of saving stays out.
        while let Some((owner, SavedOwner { position, rows })) = saved.pop_first() {
            if !replica.fences.admits(&owner, position.epoch) {
                continue;
            }
            replica.inbox.adopt(owner.clone(), position);
            let written = |(key, body)| Write { key, sequence: position.sequence, body: Some(body) };
            replica.apply(Batch { owner, replaces: true, writes: rows.into_iter().map(written).collect() });
        }
        replica
    }

    /// Takes a part from a path. Applies a whole series or nothing.
    pub fn receive(&mut self, path: PathId, part: Part) -> Outcome {
        let (owner, epoch) = (part.owner.clone(), part.epoch);
        match self.inbox.receive(path, part, &self.fences) {
            Received::Complete(batch) => self.apply(batch),
            Received::Gap => Outcome { ask_again: AskAgain::ThisPath, ..Outcome::default() },
            Received::Fenced => {
                if self.turned_away.len() < MAX_TURNED_AWAY {
                    self.turned_away.insert(owner, epoch);
                }
                Outcome::default()
            }
            Received::Staged | Received::Stale => Outcome::default(),
        }
    }

    /// A path is gone; its unfinished series with it.
    pub fn close(&mut self, path: PathId) {
        self.inbox.close(path);
    }

    fn apply(&mut self, batch: Batch) -> Outcome {
        let Batch { owner, replaces, writes } = batch;
        let mut outcome = Outcome { moved: true, ..Outcome::default() };
        if replaces {
            let named: HashSet<&RowKey> =
                writes.iter().filter(|write| write.body.is_some()).map(|write| &write.key).collect();
            let known = self.keys.get(&owner).into_iter().flatten();
            let gone: Vec<RowKey> = known.filter(|key| !named.contains(key)).cloned().collect();
            self.refused.retain(|key, refused_of| *refused_of != owner || named.contains(key));
            for key in gone {
                self.remove(&owner, &key);
                outcome.changed.push(key);
            }
        }
        for write in writes {
            match write.body {
                None => {
                    self.refused.remove(&write.key);
                    self.remove(&owner, &write.key);
                }
                Some(body) => match self.read(&owner, &write.key, &body) {
                    Ok(row) => {
                        self.refused.remove(&write.key);
                        self.put(&owner, row);
                    }
                    Err(refusal) => {
                        *self.refusals.entry(refusal.label()).or_default() += 1;
                        outcome.refused.push(refusal);
                        self.refused.insert(write.key, owner.clone());
                        continue;
                    }
                },
            }
            outcome.changed.push(write.key);
        }
        if owner == Owner::Control {
            self.obey_control(&mut outcome);
        }
        outcome
    }

    /// After control spoke: drops what it fenced, and asks again for what it may have admitted.
    fn obey_control(&mut self, outcome: &mut Outcome) {
        self.fences.control_is_known();
        let fenced = |(owner, position): (&Owner, &RowVersion)| {
            (!self.fences.admits(owner, position.epoch)).then(|| owner.clone())
        };
        let void: Vec<Owner> = self.inbox.positions().iter().filter_map(fenced).collect();
        for owner in void {
            self.inbox.forget(&owner);
            self.refused.retain(|_, refused_of| *refused_of != owner);
            for key in self.keys.get(&owner).cloned().unwrap_or_default() {
                self.remove(&owner, &key);
                outcome.changed.push(key);
            }
        }
        let waiting = self.turned_away.len();
        self.turned_away.retain(|owner, epoch| !self.fences.admits(owner, *epoch));
        if self.turned_away.len() < waiting {
            outcome.ask_again = AskAgain::AllPaths;
        }
    }

    fn read(&self, owner: &Owner, key: &RowKey, body: &[u8]) -> Result<Row, Refusal> {
        let row = sense::read(key, owner, body)?;
        let known = self.keys.get(owner);
        if known.is_some_and(|known| known.len() >= MAX_ROWS_PER_OWNER && !known.contains(key)) {
            let (key, owner) = (key.to_string(), owner.to_string());
            return Err(Refusal::TooMany { key, owner, limit: MAX_ROWS_PER_OWNER });
        }
        Ok(row)
    }

    fn put(&mut self, owner: &Owner, row: Row) {
        self.keys.entry(owner.clone()).or_default().insert(row.key());
        match row {
            Row::Machine(row) => self.settle_claims(row.id, row.node.clone(), Some(row)),
            Row::Node(row) => {
                self.fences.put(row.clone());
                self.editor.put(Row::Node(row));
            }
            row => self.editor.put(row),
        }
    }

    fn remove(&mut self, owner: &Owner, key: &RowKey) {
        if let Some(keys) = self.keys.get_mut(owner) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(owner);
            }
        }
        match (key, owner) {
            (RowKey::Machine(id), Owner::Node(node)) => self.settle_claims(*id, node.clone(), None),
            // Nobody but a node can have put a machine row.
            (RowKey::Machine(_), Owner::Control) => {}
            // And nobody but control any other.
            (_, Owner::Node(_)) => {}
            (RowKey::Node(name), Owner::Control) => {
                self.fences.remove(name);
                self.editor.remove(key);
            }
            (_, Owner::Control) => self.editor.remove(key),
        }
    }

    /// Sets what `node` says of a machine. Of several nodes the one with the newest machine version
    /// has it: a pure function of the rows, so that all replicas agree.
    fn settle_claims(&mut self, id: MachineId, node: NodeName, claim: Option<MachineRow>) {
        let mut claims = self.shadowed.remove(&id).unwrap_or_default();
        if let Some(row) = self.editor.view().machine(&id).filter(|row| row.node != node) {
            claims.insert(row.node.clone(), MachineRow::clone(row));
        }
        match claim {
            Some(row) => claims.insert(node, row),
            None => claims.remove(&node),
        };
        let newest = claims.values().max_by_key(|row| (row.version, row.node.clone())).map(|row| row.node.clone());
        match newest.and_then(|node| claims.remove(&node)) {
            Some(row) => self.editor.put(Row::Machine(row)),
            None => self.editor.remove(&RowKey::Machine(id)),
        }
        if !claims.is_empty() {
            self.shadowed.insert(id, claims);
        }
    }
}
