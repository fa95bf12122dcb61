//! The hub on tasks: watches every worker, serves every edge.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_model::row::Reader;
use atoll_model::{NodeName, Owner, RowKey, RowVersion};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::client::{BoxError, Sink};
use super::edge::Watches;
use super::publisher::Publisher;
use super::server::Source;
use super::{Clock, Streams, lock};
use crate::protocol::barrier::{HubId, Target as BarrierTarget};
use crate::protocol::hub::{SessionId, Standing};
use crate::protocol::message::{Ack, LeaseGrant, Part};
use crate::protocol::replica::{AskAgain, Outcome};
use crate::protocol::series::Session;
use crate::protocol::targets::{Target, worker_target};
use crate::protocol::{Hub, PathId, Positions, RefusalCounts};

/// Clones are handles of the same hub.
#[derive(Clone)]
pub struct HubHandle {
    shared: Arc<Shared>,
}

struct Shared {
    id: HubId,
    hub: Mutex<Hub>,
    moved: watch::Sender<u64>,
    acknowledged: watch::Sender<u64>,
    ask_again: watch::Sender<u64>,
    clock: Clock,
}

/// Paths of local publishers; far from those of watches, which count from 0.
static LOCAL_PATHS: AtomicU64 = AtomicU64::new(1 << 63);

impl HubHandle {
    /// `id` must be new with every start of the process: a random number.
    pub fn new(id: HubId, clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                id,
                hub: Mutex::default(),
                moved: watch::Sender::new(0),
                acknowledged: watch::Sender::new(0),
                ask_again: watch::Sender::new(0),
                clock,
            }),
        }
    }

    pub fn id(&self) -> HubId {
        self.shared.id
    }

    /// Relays the rows of an owner in this process (control's own) until `stop`.
    pub async fn relay(&self, publisher: Publisher, stop: CancellationToken) {
        let path = PathId(LOCAL_PATHS.fetch_add(1, Ordering::Relaxed));
        let mut changed = publisher.changed();
        let mut session = Session::default();
        loop {
            while let Some(part) = publisher.next_part(&mut session) {
                if self.receive(path, part).ask_again == AskAgain::ThisPath {
                    session = Session::new(self.positions());
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = changed.changed() => {}
            }
        }
    }

    /// Edges that are counted as leased by this hub.
    pub fn leased(&self) -> Vec<NodeName> {
        lock(&self.shared.hub).leased(self.now()).cloned().collect()
    }

    pub fn positions(&self) -> Positions {
        lock(&self.shared.hub).positions().clone()
    }

    /// The version of the latest write of a row that the hub has. It is what a barrier on the row waits
    /// for: the owner's position may be that of a later write to another row, which this row never gets.
    pub fn version_of(&self, owner: &Owner, key: &RowKey) -> Option<RowVersion> {
        let hub = lock(&self.shared.hub);
        let log = hub.logs().get(owner)?;
        Some(RowVersion { epoch: log.epoch(), sequence: log.sequence_of(key)? })
    }

    /// Whether a process of a server goes by control's write of a row, or by a later one; see
    /// [`Account::goes_by`](crate::protocol::Account::goes_by).
    pub fn goes_by(&self, node: &NodeName, reader: Reader, key: &RowKey, version: RowVersion) -> bool {
        lock(&self.shared.hub).account().goes_by(node, reader, key, version)
    }

    /// Rows refused since the start, by reason.
    pub fn refusal_counts(&self) -> RefusalCounts {
        lock(&self.shared.hub).refusal_counts().clone()
    }

    /// Whether this hub's own edges serve by the target; see [`Hub::stand`].
    pub fn stand(&self, target: &BarrierTarget) -> Standing {
        lock(&self.shared.hub).stand(target, self.now())
    }

    pub(super) fn registered(&self, begun: Duration, closed: &Positions) {
        let mut hub = lock(&self.shared.hub);
        hub.registered(begun, closed);
        // Once a second is often enough for this, too.
        hub.forget_edges((self.shared.clock)());
    }

    /// Changes with every acknowledgement.
    pub fn acknowledgements(&self) -> watch::Receiver<u64> {
        self.shared.acknowledged.subscribe()
    }

    pub(super) fn now(&self) -> Duration {
        (self.shared.clock)()
    }

    fn worker_targets(&self) -> BTreeSet<Target> {
        lock(&self.shared.hub).nodes().filter_map(worker_target).collect()
    }
}

/// Feeds the hub from every worker that control knows, until `stop`.
pub async fn watch_as_hub<C, F>(hub: HubHandle, connect: C, seed: u64, stop: CancellationToken)
where
    C: Fn(Target) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Streams, BoxError>> + Send + 'static,
{
    let mut moved = hub.moved();
    let mut watches = Watches::new(hub.clone(), connect, seed);
    while !stop.is_cancelled() {
        watches.follow(hub.worker_targets());
        tokio::select! {
            () = stop.cancelled() => {}
            Ok(()) = moved.changed() => {}
        }
    }
    watches.end().await;
}

impl Sink for HubHandle {
    fn positions(&self) -> Positions {
        self.positions()
    }

    fn receive(&self, path: PathId, part: Part) -> Outcome {
        let owner = part.owner.clone();
        let outcome = lock(&self.shared.hub).receive(path, part);
        for refusal in &outcome.refused {
            tracing::warn!(%owner, reason = refusal.label(), %refusal, "a catalogue row was not relayed");
        }
        if outcome.moved {
            self.shared.moved.send_modify(|moves| *moves += 1);
        }
        if outcome.ask_again == AskAgain::AllPaths {
            self.shared.ask_again.send_modify(|times| *times += 1);
        }
        outcome
    }

    fn close(&self, path: PathId) {
        lock(&self.shared.hub).close_path(path);
    }

    fn heard(&self, _: &Target) {}

    /// A hub is nobody's edge: its word only tells the worker that it lives.
    fn acknowledgement(&self, _: &Target, _: &mut Positions) -> Ack {
        Ack::default()
    }

    fn leased(&self, _: LeaseGrant) {}

    fn moved(&self) -> watch::Receiver<u64> {
        self.shared.moved.subscribe()
    }

    fn ask_again(&self) -> watch::Receiver<u64> {
        self.shared.ask_again.subscribe()
    }
}

impl Source for HubHandle {
    fn changed(&self) -> watch::Receiver<u64> {
        self.moved()
    }

    fn next_part(&self, session: &mut Session) -> Option<Part> {
        session.next(lock(&self.shared.hub).logs())
    }

    fn opened(&self, watcher: &NodeName, session: SessionId, positions: &Positions) {
        lock(&self.shared.hub).open(watcher.clone(), session, positions.clone());
    }

    fn acknowledged(&self, watcher: &NodeName, session: SessionId, ack: Ack) -> Option<LeaseGrant> {
        let grant = lock(&self.shared.hub).acknowledge(watcher, session, ack, self.now());
        self.shared.acknowledged.send_modify(|times| *times += 1);
        grant
    }

    fn ended(&self, watcher: &NodeName, session: SessionId) {
        lock(&self.shared.hub).end(watcher, session);
    }

    fn reader_opened(&self, watcher: &NodeName, reader: Reader, session: SessionId, positions: &Positions) {
        lock(&self.shared.hub).account_mut().opened(watcher, reader, session, positions);
    }

    fn reader_acknowledged(&self, watcher: &NodeName, reader: Reader, session: SessionId, ack: &Ack) {
        lock(&self.shared.hub).account_mut().acknowledged(watcher, reader, session, ack);
        self.shared.acknowledged.send_modify(|times| *times += 1);
    }
}
