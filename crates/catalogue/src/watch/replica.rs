//! The replica of a process: one writer at a time behind a lock, readers on an atomically swapped
//! snapshot that never waits for the writer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use atoll_signals::STAGES;
use tokio::sync::watch;

use super::client::Sink;
use super::{Clock, lock};
use crate::Snapshot;
use crate::protocol::lease::EdgeLease;
use crate::protocol::message::{Ack, LeaseGrant, MAX_LISTED_REFUSALS, Part};
use crate::protocol::replica::{AskAgain, Outcome};
use crate::protocol::saved::Saved;
use crate::protocol::targets::Target;
use crate::protocol::{PathId, Positions, RefusalCounts, Replica};

/// Clones are handles of the same replica.
#[derive(Clone)]
pub struct ReplicaHandle {
    shared: Arc<Shared>,
}

struct Shared {
    replica: Mutex<Replica>,
    /// Always swapped under the replica's lock, so that it is never behind its positions.
    view: ArcSwap<Snapshot>,
    moved: watch::Sender<u64>,
    ask_again: watch::Sender<u64>,
    lease: Mutex<EdgeLease>,
    hub_heard_at: Mutex<Duration>,
    clock: Clock,
}

impl ReplicaHandle {
    /// `replica` is empty, or restored from disk.
    pub fn new(replica: Replica, clock: Clock) -> Self {
        let view = ArcSwap::from_pointee(replica.view().clone());
        let now = clock();
        Self {
            shared: Arc::new(Shared {
                replica: Mutex::new(replica),
                view,
                moved: watch::Sender::new(0),
                ask_again: watch::Sender::new(0),
                lease: Mutex::default(),
                hub_heard_at: Mutex::new(now),
                clock,
            }),
        }
    }

    /// The present view, for as long as the caller likes.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.view.load_full()
    }

    /// The present view for a short look: without touching a counter that other cores share.
    pub fn view(&self) -> Guard<Arc<Snapshot>> {
        self.shared.view.load()
    }

    /// Changes after each swap of the view. Several swaps may show as one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.moved.subscribe()
    }

    /// Whether control counts on this edge's view being up to date in barriers.
    pub fn is_leased(&self) -> bool {
        lock(&self.shared.lease).holds((self.shared.clock)())
    }

    pub fn positions(&self) -> Positions {
        lock(&self.shared.replica).positions().clone()
    }

    /// What a later process needs; encode it away from async tasks.
    pub fn save(&self) -> Saved {
        lock(&self.shared.replica).save()
    }

    /// Rows refused since the start, by reason.
    pub fn refusal_counts(&self) -> RefusalCounts {
        lock(&self.shared.replica).refusal_counts().clone()
    }

    /// How long the hub has said nothing; from the start on where it never did.
    pub fn hub_silence(&self) -> Duration {
        self.now().saturating_sub(self.hub_heard_at())
    }

    pub(super) fn hub_heard_at(&self) -> Duration {
        *lock(&self.shared.hub_heard_at)
    }

    pub(super) fn now(&self) -> Duration {
        (self.shared.clock)()
    }
}

impl Sink for ReplicaHandle {
    fn positions(&self) -> Positions {
        self.positions()
    }

    fn receive(&self, path: PathId, part: Part) -> Outcome {
        let owner = part.owner.clone();
        let outcome = {
            let mut replica = lock(&self.shared.replica);
            let outcome = replica.receive(path, part);
            if outcome.moved {
                self.shared.view.store(Arc::new(replica.view().clone()));
                if let Some(position) = replica.positions().get(&owner) {
                    let at_us = atoll_signals::moment_us();
                    tracing::debug!(target: STAGES, %owner, sequence = position.sequence, at_us, "swapped");
                }
            }
            outcome
        };
        for refusal in &outcome.refused {
            tracing::warn!(%owner, reason = refusal.label(), %refusal, "a catalogue row was refused");
        }
        if outcome.moved {
            self.shared.moved.send_modify(|swaps| *swaps += 1);
        }
        if outcome.ask_again == AskAgain::AllPaths {
            self.shared.ask_again.send_modify(|times| *times += 1);
        }
        outcome
    }

    fn close(&self, path: PathId) {
        lock(&self.shared.replica).close(path);
    }

    fn heard(&self, target: &Target) {
        if matches!(target, Target::Hub(_)) {
            *lock(&self.shared.hub_heard_at) = (self.shared.clock)();
        }
    }

    fn acknowledgement(&self, target: &Target, told: &mut Positions) -> Ack {
        // A worker keeps no account of its watchers; an empty word tells it that they live.
        if !matches!(target, Target::Hub(_)) {
            return Ack::default();
        }
        let replica = lock(&self.shared.replica);
        let refused: Vec<_> = replica.refused_rows().take(MAX_LISTED_REFUSALS + 1).cloned().collect();
        let moved = replica.positions().iter().filter(|(owner, position)| told.get(owner) != Some(position));
        let positions: Positions = moved.map(|(owner, position)| (owner.clone(), *position)).collect();
        drop(replica);
        told.extend(positions.clone());
        let fit = refused.len() <= MAX_LISTED_REFUSALS;
        Ack { positions, refused, lease: fit.then(|| EdgeLease::request((self.shared.clock)())) }
    }

    fn leased(&self, grant: LeaseGrant) {
        lock(&self.shared.lease).granted(grant);
    }

    fn moved(&self) -> watch::Receiver<u64> {
        self.shared.moved.subscribe()
    }

    fn ask_again(&self) -> watch::Receiver<u64> {
        self.shared.ask_again.subscribe()
    }
}
