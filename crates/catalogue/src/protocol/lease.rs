//! Leases of edges: the promise between a hub and an edge that the edge is counted in barriers.
//!
//! Only lengths of time are compared, never two clocks: the edge counts the term from when it *asked*
//! by its own clock, the hub from when it *answered* by its own, plus a margin for clocks that run at
//! different speeds. So the edge's view of its lease ends before the hub's does. Times are what a
//! steady clock shows since some origin of its own, in a clock that goes on during suspend.

use std::time::Duration;

use super::message::{LeaseGrant, LeaseRequest};

/// How long an edge is leased from its request on.
pub const LEASE_TERM: Duration = Duration::from_secs(3);
/// Clocks of an edge and a hub may differ in speed by up to this part, one in 20.
const CLOCK_ERROR: u32 = 20;

/// A hub counts on the edge for this long after it granted `term`.
pub fn counted_for(term: Duration) -> Duration {
    // Twice the error: one clock may be slow and the other fast.
    term + term / CLOCK_ERROR * 2
}

/// The edge's own view.
#[derive(Default, Debug)]
pub struct EdgeLease {
    until: Option<Duration>,
}

impl EdgeLease {
    pub fn request(now: Duration) -> LeaseRequest {
        LeaseRequest { sent_at: now }
    }

    pub fn granted(&mut self, grant: LeaseGrant) {
        let until = grant.sent_at + grant.term.min(LEASE_TERM);
        self.until = Some(self.until.map_or(until, |known| known.max(until)));
    }

    /// Whether the hub counts on this edge. An edge without a lease must take its view for old.
    pub fn holds(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}
