//! The watcher's side of the numbering: puts series together, whatever path they come by, and lets
//! through only what leads its copy on. Knows nothing of what rows mean.

use std::collections::HashMap;

use atoll_model::{Owner, RowVersion};

use super::fence::Fences;
use super::message::{Base, Part, Positions, Write};

/// Writes staged per path before a series is given up as nonsense.
const MAX_STAGED_WRITES: usize = 2_000_000;

/// One stream from one server. A new stream is a new path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathId(pub u64);

/// Where the copy stands, and the unfinished series of each path.
#[derive(Default)]
pub(super) struct Inbox {
    positions: Positions,
    staged: HashMap<PathId, Staged>,
}

struct Staged {
    owner: Owner,
    epoch: u64,
    base: Base,
    next_index: u32,
    last_sequence: u64,
    writes: Vec<Write>,
}

/// A finished series, to be applied at once and as a whole.
pub(super) struct Batch {
    pub owner: Owner,
    /// Rows of the owner that `writes` does not name are gone.
    pub replaces: bool,
    pub writes: Vec<Write>,
}

pub(super) enum Received {
    /// Not the last part.
    Staged,
    /// Known already, by another path or because it comes from the past.
    Stale,
    /// Of a node or an epoch that control does not stand for.
    Fenced,
    /// Something before it is missing, or its numbering makes no sense: ask again from the present
    /// positions.
    Gap,
    Complete(Batch),
}

impl Inbox {
    /// Begins at a position whose rows the caller has from elsewhere.
    pub fn adopt(&mut self, owner: Owner, position: RowVersion) {
        self.positions.insert(owner, position);
    }

    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// The owner's rows are void: forgets where the copy stood.
    pub fn forget(&mut self, owner: &Owner) {
        self.positions.remove(owner);
    }

    pub fn close(&mut self, path: PathId) {
        self.staged.remove(&path);
    }

    /// Takes one part. A complete series moves the position: the caller must apply it.
    pub fn receive(&mut self, path: PathId, part: Part, fences: &Fences) -> Received {
        let staged = self.staged.remove(&path);
        if !fences.admits(&part.owner, part.epoch) {
            return Received::Fenced;
        }
        let mut series = match staged {
            _ if part.index == 0 => {
                let Part { owner, epoch, base, .. } = &part;
                let last_sequence = match base {
                    Base::Nothing => 0,
                    Base::Sequence(sequence) => *sequence,
                };
                let (owner, epoch, base) = (owner.clone(), *epoch, *base);
                Staged { owner, epoch, base, next_index: 0, last_sequence, writes: Vec::new() }
            }
            Some(staged) if staged.is_continued_by(&part) => staged,
            _ => return Received::Gap,
        };
        if !series.take(part.writes, part.through) {
            return Received::Gap;
        }
        match part.through {
            Some(through) => self.complete(series, through),
            None if series.writes.len() > MAX_STAGED_WRITES => Received::Gap,
            None => {
                self.staged.insert(path, series);
                Received::Staged
            }
        }
    }

    fn complete(&mut self, series: Staged, through: u64) -> Received {
        let Staged { owner, epoch, base, mut writes, .. } = series;
        let position = RowVersion { epoch, sequence: through };
        let known = self.positions.get(&owner).copied();
        if known.is_some_and(|known| position <= known) {
            return Received::Stale;
        }
        if let Base::Sequence(base) = base {
            match known {
                Some(known) if known.epoch == epoch && base <= known.sequence => {
                    // By another path the copy may be ahead of the base.
                    writes.retain(|write| write.sequence > known.sequence);
                }
                _ => return Received::Gap,
            }
        }
        self.positions.insert(owner.clone(), position);
        Received::Complete(Batch { owner, replaces: base == Base::Nothing, writes })
    }
}

impl Staged {
    /// Adds a part's writes; `false` when their sequences do not rise.
    fn take(&mut self, writes: Vec<Write>, through: Option<u64>) -> bool {
        for write in &writes {
            if write.sequence <= self.last_sequence || through.is_some_and(|through| write.sequence > through) {
                return false;
            }
            self.last_sequence = write.sequence;
        }
        self.next_index += 1;
        self.writes.extend(writes);
        through.is_none_or(|through| through >= self.last_sequence)
    }

    fn is_continued_by(&self, part: &Part) -> bool {
        self.next_index == part.index && self.owner == part.owner && self.epoch == part.epoch && self.base == part.base
    }
}
