//! The writes of one owner in their order, newest per row only, deletes as tombstones.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use atoll_model::row::{InvalidRow, MAX_ROW_BYTES};
use atoll_model::{Owner, Row, RowKey, RowVersion};
use bytes::Bytes;

use super::message::Write;

/// Tombstones kept per owner. A watcher that is further behind gets everything anew.
const MAX_TOMBSTONES: usize = 10_000;

/// One owner's rows with the order of their latest writes: at the owner itself (see [`OwnerLog`])
/// and, relayed, at a hub.
pub struct RowLog {
    epoch: u64,
    /// The state is that of the owner at this sequence.
    through: u64,
    /// Deletes up to this sequence may be forgotten: a copy older than this cannot be led on.
    floor: u64,
    latest: HashMap<RowKey, Latest>,
    order: BTreeMap<u64, RowKey>,
    /// Oldest first. May name rows that were written again since.
    tombstones: VecDeque<(u64, RowKey)>,
}

struct Latest {
    sequence: u64,
    body: Option<Bytes>,
}

impl RowLog {
    /// An empty log that knows nothing of what happened up to `through`.
    pub fn new(epoch: u64, through: u64) -> Self {
        Self {
            epoch,
            through,
            floor: through,
            latest: HashMap::new(),
            order: BTreeMap::new(),
            tombstones: VecDeque::new(),
        }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn position(&self) -> RowVersion {
        RowVersion { epoch: self.epoch, sequence: self.through }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// The sequence of a row's latest write.
    pub fn sequence_of(&self, key: &RowKey) -> Option<u64> {
        self.latest.get(key).map(|latest| latest.sequence)
    }

    /// The encoded row, unless it is deleted or unknown.
    pub fn body_of(&self, key: &RowKey) -> Option<&Bytes> {
        self.latest.get(key)?.body.as_ref()
    }

    /// The rows that are there.
    pub fn live(&self) -> impl Iterator<Item = (&RowKey, &Bytes)> {
        self.latest.iter().filter_map(|(key, latest)| Some((key, latest.body.as_ref()?)))
    }

    /// Latest writes after `sequence`, in order.
    pub(super) fn after(&self, sequence: u64) -> impl Iterator<Item = Write> {
        self.order.range((Bound::Excluded(sequence), Bound::Unbounded)).map(|(&sequence, key)| Write {
            key: key.clone(),
            sequence,
            body: self.latest.get(key).and_then(|latest| latest.body.clone()),
        })
    }

    /// Notes a write; an older one than is known changes nothing. Does not move the position.
    pub(super) fn record(&mut self, write: Write) {
        let Write { key, sequence, body } = write;
        if let Some(known) = self.latest.get(&key) {
            if known.sequence >= sequence {
                return;
            }
            self.order.remove(&known.sequence);
        }
        if body.is_none() {
            self.tombstones.push_back((sequence, key.clone()));
        }
        self.order.insert(sequence, key.clone());
        self.latest.insert(key, Latest { sequence, body });
        if self.tombstones.len() > MAX_TOMBSTONES {
            self.forget_oldest_tombstone();
        }
    }

    pub(super) fn advance(&mut self, through: u64) {
        self.through = self.through.max(through);
    }

    fn forget_oldest_tombstone(&mut self) {
        let Some((sequence, key)) = self.tombstones.pop_front() else { return };
        if self.sequence_of(&key) == Some(sequence) {
            self.latest.remove(&key);
            self.order.remove(&sequence);
            self.floor = self.floor.max(sequence);
        }
    }
}

/// The log at the owner itself, who numbers the writes.
///
/// **Sequences must never go back within an epoch**, or copies would take new rows for old ones.
/// The log itself is not durable; its owner rebuilds it at start from what it owns, and has three
/// ways to keep the promise:
/// - [`OwnerLog::resume`] from a sequence at least as high as any used before, and put every row
///   again. The wall clock in microseconds serves (nobody writes a million rows a second for long),
///   best as the maximum with a durable high-water mark: it then survives a restored disk, and a clock
///   set back, though not both at once. Watchers get this owner's rows anew. This is the worker's way.
/// - Number durably in the transaction that changes the row, `resume` from the last number, then
///   [`OwnerLog::restore`] each row with its own. Watchers go on where they were. This is control's way.
/// - [`OwnerLog::new`] with an epoch that control issued to this very life: always right, needs
///   control. A fenced owner must get a new one too; taking up the current epoch is not enough, for an
///   earlier life, of which a restored disk knows nothing, may have used it.
///
/// A watcher that has seen more than the owner proves that the promise was broken
/// ([`OwnerLog::is_behind`]); the owner must then ask for a new epoch.
pub struct OwnerLog {
    owner: Owner,
    log: RowLog,
}

impl OwnerLog {
    pub fn new(owner: Owner, epoch: u64) -> Self {
        Self::resume(owner, epoch, 0)
    }

    /// Goes on within an epoch; the next write gets a higher sequence than `last_sequence`.
    pub fn resume(owner: Owner, epoch: u64, last_sequence: u64) -> Self {
        Self { owner, log: RowLog::new(epoch, last_sequence) }
    }

    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    pub fn log(&self) -> &RowLog {
        &self.log
    }

    /// Publishes a row. An unchanged one keeps its version.
    pub fn put(&mut self, row: &Row) -> Result<RowVersion, InvalidRow> {
        let write = self.write_of(row, self.log.through + 1)?;
        if self.log.body_of(&write.key) == write.body.as_ref()
            && let Some(sequence) = self.log.sequence_of(&write.key)
        {
            return Ok(RowVersion { epoch: self.log.epoch, sequence });
        }
        Ok(self.append(write))
    }

    /// Publishes a row, or its deletion, under a number that the owner gave it durably. Numbers that
    /// are not new change nothing.
    pub fn put_at(&mut self, sequence: u64, key: &RowKey, row: Option<&Row>) -> Result<RowVersion, InvalidRow> {
        let write = match row {
            Some(row) => self.write_of(row, sequence)?,
            None => Write { key: key.clone(), sequence, body: None },
        };
        Ok(self.append(write))
    }

    /// Publishes that a row is gone; `None` when it was not there.
    pub fn delete(&mut self, key: &RowKey) -> Option<RowVersion> {
        self.log.body_of(key)?;
        let sequence = self.log.through + 1;
        Some(self.append(Write { key: key.clone(), sequence, body: None }))
    }

    /// After [`OwnerLog::resume`]: a row that was written with `sequence` before.
    pub fn restore(&mut self, row: &Row, sequence: u64) -> Result<(), InvalidRow> {
        let write = self.write_of(row, sequence.min(self.log.through))?;
        self.log.record(write);
        Ok(())
    }

    /// Whether a watcher with this position saw writes of this epoch that the log does not know.
    pub fn is_behind(&self, position: RowVersion) -> bool {
        position > self.log.position()
    }

    fn append(&mut self, write: Write) -> RowVersion {
        let version = RowVersion { epoch: self.log.epoch, sequence: write.sequence };
        self.log.advance(write.sequence);
        self.log.record(write);
        version
    }

    fn write_of(&self, row: &Row, sequence: u64) -> Result<Write, InvalidRow> {
        let key = row.key();
        let rightful = row.rightful_owner();
        if rightful != self.owner {
            return Err(InvalidRow::WrongOwner {
                key: key.to_string(),
                rightful: rightful.to_string(),
                claimed: self.owner.to_string(),
            });
        }
        let body = row.encode();
        if body.len() > MAX_ROW_BYTES {
            return Err(InvalidRow::TooLarge { key: key.to_string(), bytes: body.len() });
        }
        Ok(Write { key, sequence, body: Some(body.into()) })
    }
}
