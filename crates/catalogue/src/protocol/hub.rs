//! Control's relay: keeps the encoded rows of every owner for any number of watchers, leases edges,
//! and answers for them in barriers. Reads of rows only what control says of nodes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use atoll_model::row::{NodeRow, Reader};
use atoll_model::{NodeName, Owner, Row, RowKey, RowVersion};

use super::account::Account;
use super::barrier::{Registration, Target};
use super::fence::Fences;
use super::inbox::{Batch, Inbox, PathId, Received};
use super::lease::{LEASE_TERM, counted_for};
use super::log::RowLog;
use super::message::{Ack, LeaseGrant, MAX_LISTED_REFUSALS, Part, Positions};
use super::replica::{AskAgain, MAX_TURNED_AWAY, Outcome};
use super::sense::{self, RefusalCounts};

/// One watch stream of an edge, told apart from its earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId(pub u64);

#[derive(Default)]
pub struct Hub {
    inbox: Inbox,
    fences: Fences,
    logs: BTreeMap<Owner, RowLog>,
    edges: HashMap<NodeName, Edge>,
    account: Account,
    registration: Registration,
    /// Barriers that this hub passed, or that were closed before it came: leases go only to edges
    /// that have these.
    settled: Positions,
    /// Rows that are not relayed in their newest value.
    refused: BTreeMap<RowKey, Owner>,
    refusals: RefusalCounts,
    /// Owners whose rows were turned away, with the epoch; control may admit them yet.
    turned_away: BTreeMap<Owner, u64>,
}

/// What the hub knows of an edge that opened a watch here.
struct Edge {
    session: SessionId,
    watches: bool,
    serves: Positions,
    /// Unknown until the session's first acknowledgement, or when there are too many.
    refused: Option<Vec<RowKey>>,
    /// Counted as leased until then, by the hub's clock.
    counted_until: Option<Duration>,
}

/// This hub's part of a barrier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The hub itself has not got the row.
    NotHere,
    /// These leased edges do not serve by it yet.
    Waiting(Vec<NodeName>),
    Passed,
    /// The row was refused, here (empty) or by these leased edges: nothing will come of waiting.
    Refused(Vec<NodeName>),
    /// The row's owner was fenced or wrote it again in a later epoch.
    Void,
}

impl Hub {
    pub fn logs(&self) -> &BTreeMap<Owner, RowLog> {
        &self.logs
    }

    pub fn positions(&self) -> &Positions {
        self.inbox.positions()
    }

    /// The nodes as control has them.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRow> {
        self.fences.nodes()
    }

    /// How far everybody has come with control's rows; of edges the hub notes it itself.
    pub fn account(&self) -> &Account {
        &self.account
    }

    pub fn account_mut(&mut self) -> &mut Account {
        &mut self.account
    }

    pub fn refusal_counts(&self) -> &RefusalCounts {
        &self.refusals
    }

    /// Takes a part from an owner (or another hub). `changed` names rows to be relayed.
    pub fn receive(&mut self, path: PathId, part: Part) -> Outcome {
        let (owner, epoch) = (part.owner.clone(), part.epoch);
        match self.inbox.receive(path, part, &self.fences) {
            Received::Complete(batch) => self.relay(batch),
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
    pub fn close_path(&mut self, path: PathId) {
        self.inbox.close(path);
    }

    fn relay(&mut self, batch: Batch) -> Outcome {
        let Batch { owner, replaces, writes } = batch;
        let mut outcome = Outcome { moved: true, ..Outcome::default() };
        let Some(position) = self.inbox.positions().get(&owner).copied() else { return outcome };
        if replaces {
            // What was deleted meanwhile is not known: watchers of the old log get everything anew.
            self.logs.insert(owner.clone(), RowLog::new(position.epoch, position.sequence));
            self.refused.retain(|_, refused_of| *refused_of != owner);
        }
        let log = self.logs.entry(owner.clone()).or_insert_with(|| RowLog::new(position.epoch, position.sequence));
        for write in writes {
            if let Some(refusal) = write.body.as_ref().and_then(|body| sense::check_size(&write.key, body).err()) {
                outcome.refused.push(refusal);
                self.refused.insert(write.key, owner.clone());
                continue;
            }
            self.refused.remove(&write.key);
            outcome.changed.push(write.key.clone());
            log.record(write);
        }
        log.advance(position.sequence);
        if owner == Owner::Control {
            self.obey_control(&mut outcome);
        }
        for refusal in &outcome.refused {
            *self.refusals.entry(refusal.label()).or_default() += 1;
        }
        outcome
    }

    fn obey_control(&mut self, outcome: &mut Outcome) {
        self.fences.control_is_known();
        let Some(log) = self.logs.get(&Owner::Control) else { return };
        for key in outcome.changed.iter().filter(|key| matches!(key, RowKey::Node(_))) {
            match (log.body_of(key).map(|body| sense::read(key, &Owner::Control, body)), key) {
                (Some(Ok(Row::Node(row))), _) => self.fences.put(row),
                (Some(Err(refusal)), _) => outcome.refused.push(refusal),
                (None, RowKey::Node(name)) => self.fences.remove(name),
                // A node's key never reads as another kind of row.
                (Some(Ok(_)) | None, _) => {}
            }
        }
        let void: Vec<Owner> = self
            .inbox
            .positions()
            .iter()
            .filter(|(owner, position)| !self.fences.admits(owner, position.epoch))
            .map(|(owner, _)| owner.clone())
            .collect();
        for owner in void {
            self.inbox.forget(&owner);
            self.logs.remove(&owner);
        }
        let waiting = self.turned_away.len();
        self.turned_away.retain(|owner, epoch| !self.fences.admits(owner, *epoch));
        if self.turned_away.len() < waiting {
            outcome.ask_again = AskAgain::AllPaths;
        }
    }

    /// An edge opened a watch, or asked again on the same one, and says what it serves by.
    pub fn open(&mut self, edge: NodeName, session: SessionId, serves: Positions) {
        self.account.opened(&edge, Reader::Edge, session, &serves);
        // A lease of the edge's earlier life is still counted: that life may not have ended yet.
        let known = self.edges.remove(&edge);
        let counted_until = known.as_ref().and_then(|known| known.counted_until);
        let refused = known.filter(|known| known.session == session).and_then(|known| known.refused);
        self.edges.insert(edge, Edge { session, watches: true, serves, refused, counted_until });
    }

    /// Takes an acknowledgement; answers a request for a lease if it may be granted.
    pub fn acknowledge(&mut self, edge: &NodeName, session: SessionId, ack: Ack, now: Duration) -> Option<LeaseGrant> {
        self.account.acknowledged(edge, Reader::Edge, session, &ack);
        let known = self.edges.get_mut(edge).filter(|known| known.session == session)?;
        known.serves.extend(ack.positions);
        known.refused = Some(ack.refused).filter(|listed| listed.len() <= MAX_LISTED_REFUSALS);
        let request = ack.lease?;
        let up_to_date = self.settled.iter().all(|(owner, version)| {
            known.serves.get(owner) >= Some(version) || !self.fences.admits(owner, version.epoch)
        });
        if !up_to_date || !self.registration.covers(LEASE_TERM, now) {
            return None;
        }
        known.counted_until = Some(now + counted_for(LEASE_TERM));
        Some(LeaseGrant { sent_at: request.sent_at, term: LEASE_TERM })
    }

    /// Forgets an edge whose session ended, once it is not counted any more.
    pub fn forget_edges(&mut self, now: Duration) {
        self.edges.retain(|_, edge| edge.watches || edge.is_counted(now));
    }

    /// The edge's stream ended.
    pub fn end(&mut self, edge: &NodeName, session: SessionId) {
        if let Some(known) = self.edges.get_mut(edge).filter(|known| known.session == session) {
            known.watches = false;
        }
    }

    /// A renewal of this hub's registration, begun at `begun`, succeeded and showed these barriers
    /// closed.
    pub fn registered(&mut self, begun: Duration, closed: &Positions) {
        for (owner, version) in closed {
            self.settle(owner, *version);
        }
        self.registration.renewed(begun);
    }

    fn settle(&mut self, owner: &Owner, version: RowVersion) {
        let settled = self.settled.entry(owner.clone()).or_default();
        *settled = version.max(*settled);
    }

    /// Whether this hub's edges serve by the target. When they do, the hub keeps it so: the answer
    /// may be published.
    pub fn stand(&mut self, target: &Target, now: Duration) -> Standing {
        if !self.fences.admits(&target.owner, target.version.epoch) {
            return Standing::Void;
        }
        let Some(log) = self.logs.get(&target.owner).filter(|log| log.position() >= target.version) else {
            return Standing::NotHere;
        };
        if log.epoch() > target.version.epoch {
            return Standing::Void;
        }
        if self.refused.contains_key(&target.key) {
            return Standing::Refused(Vec::new());
        }
        // An owner whose sequence went back publishes under numbers that were passed long ago.
        if log.sequence_of(&target.key).unwrap_or(log.floor()) < target.version.sequence {
            return Standing::NotHere;
        }
        let counted = || self.edges.iter().filter(|(_, edge)| edge.is_counted(now));
        let names = |lacks: &dyn Fn(&Edge) -> bool| -> Vec<NodeName> {
            counted().filter(|(_, edge)| lacks(edge)).map(|(name, _)| name.clone()).collect()
        };
        let waiting = names(&|edge| edge.refused.is_none() || edge.serves.get(&target.owner) < Some(&target.version));
        let refused = names(&|edge| edge.refused.as_ref().is_some_and(|rows| rows.contains(&target.key)));
        if !waiting.is_empty() {
            Standing::Waiting(waiting)
        } else if !refused.is_empty() {
            Standing::Refused(refused)
        } else {
            self.settle(&target.owner, target.version);
            Standing::Passed
        }
    }

    /// Edges that are counted as leased.
    pub fn leased(&self, now: Duration) -> impl Iterator<Item = &NodeName> {
        self.edges.iter().filter(move |(_, edge)| edge.is_counted(now)).map(|(name, _)| name)
    }
}

impl Edge {
    fn is_counted(&self, now: Duration) -> bool {
        self.counted_until.is_some_and(|until| now < until)
    }
}
