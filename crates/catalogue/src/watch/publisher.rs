//! An owner's log that any task may write and any number of watches serve.

use std::sync::{Arc, Mutex};

use atoll_model::row::InvalidRow;
use atoll_model::{NodeName, Row, RowKey, RowVersion};
use tokio::sync::watch;

use super::lock;
use super::server::Source;
use crate::protocol::hub::SessionId;
use crate::protocol::message::{Ack, LeaseGrant, Part};
use crate::protocol::series::Session;
use crate::protocol::{OwnerLog, Positions};

/// Clones are handles of the same log.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    log: Mutex<OwnerLog>,
    /// Counts the writes.
    changed: watch::Sender<u64>,
    lost_sequence: watch::Sender<bool>,
}

impl Publisher {
    pub fn new(log: OwnerLog) -> Self {
        let (changed, lost_sequence) = (watch::Sender::new(0), watch::Sender::new(false));
        Self { shared: Arc::new(Shared { log: Mutex::new(log), changed, lost_sequence }) }
    }

    /// Publishes a row; see [`OwnerLog::put`].
    pub fn put(&self, row: &Row) -> Result<RowVersion, InvalidRow> {
        self.write(|log| log.put(row))
    }

    /// Publishes a row or a deletion under the owner's own number; see [`OwnerLog::put_at`].
    pub fn put_at(&self, sequence: u64, key: &RowKey, row: Option<&Row>) -> Result<RowVersion, InvalidRow> {
        self.write(|log| log.put_at(sequence, key, row))
    }

    /// Publishes that a row is gone; `None` when it was not there.
    pub fn delete(&self, key: &RowKey) -> Option<RowVersion> {
        self.write(|log| log.delete(key))
    }

    pub fn position(&self) -> RowVersion {
        lock(&self.shared.log).log().position()
    }

    /// Puts another log in place: a new epoch began.
    pub fn replace(&self, log: OwnerLog) {
        self.write(|present| *present = log);
        self.shared.lost_sequence.send_replace(false);
    }

    /// Turns true when a watcher proved that this log's sequence went back: the owner must get a new
    /// epoch from control and [`Publisher::replace`] the log.
    pub fn lost_sequence(&self) -> watch::Receiver<bool> {
        self.shared.lost_sequence.subscribe()
    }

    fn write<T>(&self, change: impl FnOnce(&mut OwnerLog) -> T) -> T {
        let result = change(&mut lock(&self.shared.log));
        self.shared.changed.send_modify(|writes| *writes += 1);
        result
    }
}

impl Source for Publisher {
    fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    fn next_part(&self, session: &mut Session) -> Option<Part> {
        session.next(&*lock(&self.shared.log))
    }

    fn opened(&self, _: &NodeName, _: SessionId, positions: &Positions) {
        let log = lock(&self.shared.log);
        let seen = positions.get(log.owner()).copied();
        if seen.is_some_and(|seen| seen.epoch == log.log().epoch() && log.is_behind(seen)) {
            self.shared.lost_sequence.send_replace(true);
        }
    }

    /// An owner leases nobody: what its watchers serve by is the hubs' business.
    fn acknowledged(&self, _: &NodeName, _: SessionId, _: Ack) -> Option<LeaseGrant> {
        None
    }

    fn ended(&self, _: &NodeName, _: SessionId) {}
}
