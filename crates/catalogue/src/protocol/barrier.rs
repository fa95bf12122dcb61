//! Barriers: "every leased edge serves by row R, at its version or a later one". Deploys wait for
//! them instead of sleeping.
//!
//! The promise: **once a barrier is closed, no edge holds a lease by its own clock without serving
//! by R** (unless R's owner was fenced, which voids R). It holds with several control processes. An
//! edge has its lease from one hub, so each hub answers for its own edges; which hubs there are, and
//! what they answered, stands in the [`Book`], a few records shared by all control processes that
//! are changed one transaction at a time:
//!
//! - A hub registers, and renews, before it grants leases; a renewal shows it all closed barriers. It
//!   grants no lease that it would count beyond its registration ([`Registration`]).
//! - A hub *passes* an open barrier when each edge it leases acknowledged R or ran out. From then on
//!   it grants leases only to edges that acknowledged R.
//! - A barrier is *closed* in one transaction that sees every registered hub passed or gone. Gone is
//!   a hub that was not seen to renew for a whole [`REGISTRATION_TERM`]: all its leases ran out. A hub
//!   that comes back, or a new one, renews either before the closing, which then fails, or after,
//!   and then knows the barrier.

use std::collections::HashMap;
use std::time::Duration;

use atoll_model::{Owner, RowKey, RowVersion};

use super::lease::counted_for;
use super::message::Positions;

/// One life of a control process; a restarted one is another hub.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HubId(pub u64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BarrierId(pub u64);

/// What a barrier waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub key: RowKey,
    pub owner: Owner,
    /// Of a write of this very row: a later write of its owner's may be of another one.
    pub version: RowVersion,
}

/// The shared records, as one transaction sees them.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Registered hubs and how often each has renewed.
    pub hubs: Vec<(HubId, u64)>,
    pub open: Vec<OpenBarrier>,
    /// The highest version of each owner for which a barrier was closed.
    pub closed: Positions,
}

#[derive(Clone, Debug)]
pub struct OpenBarrier {
    pub id: BarrierId,
    pub target: Target,
    pub passed: Vec<HubId>,
}

/// A registration outlives every lease granted under it.
pub const REGISTRATION_TERM: Duration = Duration::from_secs(6);

/// A hub's own view of its registration.
#[derive(Default, Debug)]
pub struct Registration {
    until: Option<Duration>,
}

impl Registration {
    /// A renewal that was *begun* at `begun` has succeeded.
    pub fn renewed(&mut self, begun: Duration) {
        self.until = Some(begun + REGISTRATION_TERM);
    }

    /// Whether a lease of `term` granted now is counted only within the registration.
    pub fn covers(&self, term: Duration, now: Duration) -> bool {
        self.until.is_some_and(|until| now + counted_for(term) <= until)
    }
}

/// Watches, by this process's clock, which registered hubs still renew.
#[derive(Default)]
pub struct Roster {
    seen: HashMap<HubId, Seen>,
}

struct Seen {
    renewals: u64,
    since: Duration,
}

impl Roster {
    /// Notes what the book shows; `now` is when it was read, at the latest.
    pub fn observe(&mut self, hubs: &[(HubId, u64)], now: Duration) {
        self.seen.retain(|known, _| hubs.iter().any(|(hub, _)| hub == known));
        for &(hub, renewals) in hubs {
            let seen = self.seen.entry(hub).or_insert(Seen { renewals, since: now });
            if seen.renewals != renewals {
                *seen = Seen { renewals, since: now };
            }
        }
    }

    /// Registered hubs all of whose leases ran out, with the renewals at which that was judged.
    pub fn gone(&self, now: Duration) -> Vec<(HubId, u64)> {
        let gone = |seen: &Seen| now.saturating_sub(seen.since) >= counted_for(REGISTRATION_TERM);
        self.seen.iter().filter(|(_, seen)| gone(seen)).map(|(hub, seen)| (*hub, seen.renewals)).collect()
    }
}

impl Book {
    /// Registers or renews a hub. These three are what a shared store does in one transaction each.
    pub fn renew(&mut self, hub: HubId) {
        match self.hubs.iter_mut().find(|(known, _)| *known == hub) {
            Some((_, renewals)) => *renewals += 1,
            None => self.hubs.push((hub, 0)),
        }
    }

    pub fn pass(&mut self, barrier: BarrierId, hub: HubId) {
        if let Some(open) = self.open.iter_mut().find(|open| open.id == barrier)
            && !open.passed.contains(&hub)
        {
            open.passed.push(hub);
        }
    }

    /// Closes the barrier if every registered hub has passed it or is `gone` at just these renewals.
    /// Hubs that are gone are struck off. `false`: not yet.
    pub fn close(&mut self, barrier: BarrierId, gone: &[(HubId, u64)]) -> bool {
        let Some(at) = self.open.iter().position(|open| open.id == barrier) else { return false };
        let is_settled = |hub: &(HubId, u64)| self.open[at].passed.contains(&hub.0) || gone.contains(hub);
        if !self.hubs.iter().all(is_settled) {
            return false;
        }
        let OpenBarrier { target, .. } = self.open.remove(at);
        self.hubs.retain(|hub| !gone.contains(hub));
        let closed = self.closed.entry(target.owner).or_default();
        *closed = target.version.max(*closed);
        true
    }
}
