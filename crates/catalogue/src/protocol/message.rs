//! What watchers and servers of the catalogue say to each other. [`super::codec`] gives the bytes.
//!
//! A watcher opens with its positions, the server answers with series of parts and goes on sending
//! as rows change. A **series** takes the watcher's copy of one owner from one consistent state to a
//! later one; it is cut into parts only to bound the size of a message, and takes effect as a whole
//! with its last part. A copy is therefore always exactly what its owner had at some sequence.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::{Owner, RowKey, RowVersion};
use bytes::Bytes;

/// The version up to which a copy reflects each owner's rows.
pub type Positions = BTreeMap<Owner, RowVersion>;

/// From a watcher.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// Opens the stream, or asks again after a gap: send everything after these positions.
    Watch(Positions),
    Ack(Ack),
}

/// With more refused rows than this an acknowledgement lists no further ones, the watcher asks for no
/// lease, and counts as serving by nothing.
pub const MAX_LISTED_REFUSALS: usize = 64;

/// What the watcher serves by now; sent after its snapshot was swapped, never before.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ack {
    /// Positions that moved since the last acknowledgement on this stream.
    pub positions: Positions,
    /// All rows of which the copy has an older value, because it refused the newer one; see
    /// [`MAX_LISTED_REFUSALS`].
    pub refused: Vec<RowKey>,
    /// Asks for the lease to be granted or renewed.
    pub lease: Option<LeaseRequest>,
}

/// Carries the edge's own clock, which comes back in the grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseRequest {
    pub sent_at: Duration,
}

/// The edge is leased for `term` counted from its own `sent_at`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseGrant {
    pub sent_at: Duration,
    pub term: Duration,
}

/// From a server.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    Rows(Part),
    /// Nothing new; the server lives.
    Heartbeat,
    Lease(LeaseGrant),
}

/// One message of a series.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    pub owner: Owner,
    pub epoch: u64,
    pub base: Base,
    /// Counts from 0 within the series.
    pub index: u32,
    /// In order of sequence.
    pub writes: Vec<Write>,
    /// In the last part: the sequence whose state the whole series leads to.
    pub through: Option<u64>,
}

/// What a series builds upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// Nothing: what the series does not name, the owner does not have.
    Nothing,
    /// The state at this sequence.
    Sequence(u64),
}

/// The latest write of a row.
#[derive(Clone, PartialEq, Debug)]
pub struct Write {
    pub key: RowKey,
    pub sequence: u64,
    /// `None`: deleted.
    pub body: Option<Bytes>,
}
