//! The server's side of a watch: what to send next to one watcher. Nothing is queued: a slow watcher
//! has old cursors, and gets, whenever it can take more, the latest writes since then.

use std::collections::{BTreeMap, HashMap};

use atoll_model::{Owner, RowVersion};

use super::log::RowLog;
use super::message::{Base, Part, Positions};

/// Row bytes after which a part ends; the last row may exceed it by its own size.
const PART_BYTES: usize = 128 * 1024;
/// Charged for a row's key and number.
const WRITE_OVERHEAD: usize = 64;

/// Where the logs are that a session serves.
pub trait Logs {
    fn log(&self, owner: &Owner) -> Option<&RowLog>;
    fn owners(&self) -> impl Iterator<Item = &Owner>;
}

impl Logs for super::log::OwnerLog {
    fn log(&self, owner: &Owner) -> Option<&RowLog> {
        (owner == self.owner()).then_some(self.log())
    }

    fn owners(&self) -> impl Iterator<Item = &Owner> {
        std::iter::once(self.owner())
    }
}

impl Logs for BTreeMap<Owner, RowLog> {
    fn log(&self, owner: &Owner) -> Option<&RowLog> {
        self.get(owner)
    }

    fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.keys()
    }
}

/// What one watcher has been sent.
#[derive(Default)]
pub struct Session {
    /// Positions that the watcher has, or will have when everything sent has arrived.
    sent: HashMap<Owner, RowVersion>,
    running: Option<Running>,
    last_served: Option<Owner>,
}

/// A series that is under way. There is one at a time, so that the watcher stages one at a time.
struct Running {
    owner: Owner,
    epoch: u64,
    base: Base,
    next_index: u32,
    cursor: u64,
    /// The position and floor of the log when the series began.
    began_at: u64,
    floor: u64,
}

impl Session {
    pub fn new(positions: Positions) -> Self {
        Self { sent: positions.into_iter().collect(), running: None, last_served: None }
    }

    /// The next part to send, or `None` while the watcher has been sent everything. Control's rows
    /// go first on a new stream: they say which nodes' rows may be believed.
    pub fn next(&mut self, logs: &impl Logs) -> Option<Part> {
        if let Some(running) = self.running.take()
            && let Some(log) = logs.log(&running.owner)
            && running.can_continue(log)
        {
            return Some(self.continue_series(running, log));
        }
        let owner = self.next_owner(logs)?;
        let log = logs.log(&owner)?;
        let base = match self.sent.get(&owner) {
            Some(sent) if sent.epoch == log.epoch() && sent.sequence >= log.floor() => Base::Sequence(sent.sequence),
            _ => Base::Nothing,
        };
        let cursor = match base {
            Base::Nothing => 0,
            Base::Sequence(sequence) => sequence,
        };
        self.last_served = Some(owner.clone());
        let began_at = log.position().sequence;
        let running = Running { owner, epoch: log.epoch(), base, next_index: 0, cursor, began_at, floor: log.floor() };
        Some(self.continue_series(running, log))
    }

    /// The next owner, in turn, of whom the watcher lacks something. A watcher may be ahead of a hub.
    fn next_owner(&self, logs: &impl Logs) -> Option<Owner> {
        let lacks = |owner: &&Owner| {
            logs.log(owner).is_some_and(|log| self.sent.get(owner).is_none_or(|sent| *sent < log.position()))
        };
        let after_last = |owner: &&Owner| self.last_served.as_ref().is_none_or(|last| *owner > last);
        let in_turn = logs.owners().filter(after_last).find(lacks);
        in_turn.or_else(|| logs.owners().find(lacks)).cloned()
    }

    fn continue_series(&mut self, mut running: Running, log: &RowLog) -> Part {
        let mut writes = Vec::new();
        let mut bytes = 0;
        let mut through = Some(log.position().sequence);
        for write in log.after(running.cursor) {
            if bytes >= PART_BYTES {
                through = None;
                break;
            }
            running.cursor = write.sequence;
            // Who begins with nothing need not hear of what was gone before.
            if write.body.is_none() && running.base == Base::Nothing && write.sequence <= running.began_at {
                continue;
            }
            bytes += WRITE_OVERHEAD + write.body.as_ref().map_or(0, |body| body.len());
            writes.push(write);
        }
        let index = running.next_index;
        let part =
            Part { owner: running.owner.clone(), epoch: running.epoch, base: running.base, index, writes, through };
        match through {
            Some(sequence) => {
                self.sent.insert(running.owner, RowVersion { epoch: running.epoch, sequence });
            }
            None => {
                running.next_index += 1;
                self.running = Some(running);
            }
        }
        part
    }
}

impl Running {
    /// Whether no delete has been forgotten that the watcher would still need to hear of.
    fn can_continue(&self, log: &RowLog) -> bool {
        log.epoch() == self.epoch && log.floor() <= self.cursor.max(self.floor)
    }
}
