//! Which watches an edge keeps open: follows [`watch_targets`] as nodes come and go and hubs fall
//! silent.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::time::Duration;

use atoll_model::RegionCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Streams;
use super::client::{BoxError, Sink, keep_watching};
use super::replica::ReplicaHandle;
use crate::protocol::targets::{Situation, Target, watch_targets};

/// How often the choice is looked at anew: a fraction of the silence it reacts to.
pub(super) const REVIEW: Duration = Duration::from_millis(250);

/// Where an edge stands.
#[derive(Clone, Copy, Debug)]
pub struct EdgePlace {
    pub region: RegionCode,
    /// How many control processes are configured; [`Target::Hub`] carries the number of one.
    pub hubs: usize,
}

/// Feeds the replica from hubs and workers until `stop`. `connect` opens a stream to a target;
/// `seed` spreads the pauses between attempts.
pub async fn watch_as_edge<C, F>(
    replica: ReplicaHandle,
    place: EdgePlace,
    connect: C,
    seed: u64,
    stop: CancellationToken,
) where
    C: Fn(Target) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Streams, BoxError>> + Send + 'static,
{
    let mut watches = Watches::new(replica.clone(), connect, seed);
    let mut review = interval(REVIEW);
    review.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut moved = replica.subscribe();
    let (mut hub, mut hub_since) = (0, replica.now());
    while !stop.is_cancelled() {
        let view = replica.snapshot();
        let targets = watch_targets(&Situation {
            view: &view,
            region: place.region,
            hubs: place.hubs,
            hub,
            hub_since,
            heard_at: replica.hub_heard_at(),
            now: replica.now(),
        });
        for target in &targets {
            if let Target::Hub(number) = *target
                && number != hub
            {
                (hub, hub_since) = (number, replica.now());
            }
        }
        watches.follow(targets);
        tokio::select! {
            () = stop.cancelled() => {}
            _ = review.tick() => {}
            Ok(()) = moved.changed() => {}
        }
    }
    watches.end().await;
}

/// The open watches, one task each.
pub(super) struct Watches<S, C> {
    sink: S,
    connect: C,
    rng: StdRng,
    open: HashMap<Target, CancellationToken>,
    tasks: JoinSet<()>,
}

impl<S, C, F> Watches<S, C>
where
    S: Sink,
    C: Fn(Target) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Streams, BoxError>> + Send + 'static,
{
    pub fn new(sink: S, connect: C, seed: u64) -> Self {
        Self { sink, connect, rng: StdRng::seed_from_u64(seed), open: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Opens what is missing and closes what is no longer wanted.
    pub fn follow(&mut self, wanted: BTreeSet<Target>) {
        self.open.retain(|target, stop| {
            let keep = wanted.contains(target);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for target in wanted {
            if self.open.contains_key(&target) {
                continue;
            }
            let stop = CancellationToken::new();
            let rng = StdRng::seed_from_u64(self.rng.random());
            let (sink, connect) = (self.sink.clone(), self.connect.clone());
            self.tasks.spawn(keep_watching(target.clone(), sink, connect, rng, stop.clone()));
            self.open.insert(target, stop);
        }
        // Collects what has ended, so that the set does not grow.
        while self.tasks.try_join_next().is_some() {}
    }

    pub async fn end(mut self) {
        self.follow(BTreeSet::new());
        while self.tasks.join_next().await.is_some() {}
    }
}
