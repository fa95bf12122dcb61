//! Looking for a machine, again and again, until one takes what is to be brought to it or nothing more
//! may be tried.
//!
//! What may be tried again: anything of which no machine has seen a byte; and what may be repeated
//! although a machine perhaps has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::row::MachineRow;
use atoll_model::{AppName, MachineId};
use rand::RngExt;
use tokio::sync::watch;

use crate::core::Core;
use crate::errors::{Cause, Failure};
use crate::node::{OwnView, Reached, Setback, Terms};
use crate::select::{Decision, Query, Target, Unusable, select};
use crate::steering::Steering;

/// Where something is to be brought.
pub(super) struct Destination {
    pub app: AppName,
    /// External port.
    pub port: u16,
    pub steering: Steering,
    pub began: Instant,
}

/// What is to be brought there.
pub(super) trait Errand: Sync {
    type Answer: Send;

    /// Tries one machine.
    fn attempt(
        &self,
        core: &Arc<Core>,
        target: &Target,
        terms: Terms,
    ) -> impl Future<Output = Result<Self::Answer, Setback>> + Send;

    /// Whether it may be brought to a machine after another one perhaps had it.
    fn may_be_repeated(&self) -> bool;

    /// Whether it is still whole, so that it can be brought to another machine at all.
    fn is_whole(&self) -> bool;
}

/// How a search ended.
pub(super) struct Found<T> {
    pub result: Result<T, Failure>,
    /// The last machine that was tried.
    pub machine: Option<Arc<MachineRow>>,
    pub attempts: u32,
}

/// What has been learnt on the way.
#[derive(Default)]
struct Log {
    attempts: u32,
    machine: Option<Arc<MachineRow>>,
    cause: Option<Cause>,
    excluded: Vec<MachineId>,
    /// Machines were tried since the last pause.
    tried: bool,
    last_resort: bool,
}

impl Destination {
    pub async fn search<E: Errand>(&self, core: &Arc<Core>, errand: &E) -> Found<E::Answer> {
        let mut log = Log::default();
        let result = self.find(core, errand, &mut log).await;
        core.edge.counters.retries.add(u64::from(log.attempts.saturating_sub(1)));
        Found { result, machine: log.machine, attempts: log.attempts }
    }

    async fn find<E: Errand>(&self, core: &Arc<Core>, errand: &E, log: &mut Log) -> Result<E::Answer, Failure> {
        let edge = &core.edge;
        let deadline = self.began + edge.config.timeouts.hold;
        let mut pause = Pause::new(core, deadline);
        loop {
            match self.decide(core, &log.excluded) {
                Decision::Refuse(refusal) => return Err(Failure::refused(refusal)),
                Decision::Hold(Unusable::Tried) if !log.last_resort => {
                    log.last_resort = true;
                    log.excluded.clear();
                }
                Decision::Hold(reason) => {
                    if !pause.hold(log.tried).await {
                        return Err(Failure::held_too_long(Some(reason), log.cause));
                    }
                    log.excluded.clear();
                    log.tried = false;
                }
                Decision::Send(target) => {
                    if log.attempts >= edge.config.limits.attempts || Instant::now() >= deadline {
                        return Err(Failure::held_too_long(None, log.cause));
                    }
                    log.attempts += 1;
                    log.tried = true;
                    log.machine = Some(target.machine.clone());
                    let terms = Terms { last_resort: log.last_resort, deadline };
                    match errand.attempt(core, &target, terms).await {
                        Ok(answer) => return Ok(answer),
                        Err(setback) => self.note(errand, &target, setback, log)?,
                    }
                }
            }
        }
    }

    fn decide(&self, core: &Core, excluded: &[MachineId]) -> Decision {
        let edge = &core.edge;
        let own = OwnView::new(&edge.machines, Instant::now());
        let query = Query {
            snapshot: &edge.surroundings.routes.snapshot(),
            reachability: &edge.reachability.load(),
            app: &self.app,
            port: self.port,
            steering: &self.steering,
            excluded,
            node: &edge.config.node,
            region: edge.config.region,
            order: edge.config.start_order,
            own: &own,
        };
        select(&query, &mut |n| rand::rng().random_range(0..n))
    }

    /// Fails when that was the last attempt that could be made.
    fn note<E: Errand>(&self, errand: &E, target: &Target, setback: Setback, log: &mut Log) -> Result<(), Failure> {
        tracing::debug!(
            app = %self.app, machine = %target.machine.id, code = setback.cause.code(), reached = ?setback.reached,
            "an attempt brought no answer"
        );
        if setback.reached == Reached::Perhaps && !errand.may_be_repeated() {
            return Err(Failure::broken(setback.cause));
        }
        if !errand.is_whole() {
            return Err(Failure::not_repeatable(setback.cause));
        }
        log.cause = Some(setback.cause);
        log.excluded.push(target.machine.id);
        Ok(())
    }
}

/// Waiting between two looks for a machine: it ends with the pause, or before when something changed.
struct Pause<'a> {
    core: &'a Core,
    deadline: Instant,
    /// From the first hold on: changes of the catalogue, and room in this node's machines.
    news: Option<(watch::Receiver<u64>, watch::Receiver<u64>)>,
    next: Duration,
}

impl<'a> Pause<'a> {
    fn new(core: &'a Core, deadline: Instant) -> Self {
        Self { core, deadline, news: None, next: core.edge.config.timeouts.backoff_min }
    }

    /// Returns false when the deadline is over. `tried`: machines that looked usable were not, so
    /// that changes of others should not make us hurry.
    async fn hold(&mut self, tried: bool) -> bool {
        let edge = &self.core.edge;
        let now = Instant::now();
        if now >= self.deadline {
            return false;
        }
        let Some((catalogue, room)) = &mut self.news else {
            edge.counters.held.one();
            let receivers = (edge.surroundings.routes.changes(), edge.machines.signals.room.subscribe());
            self.news = Some(receivers);
            // Something may have changed between the look and the subscription.
            return true;
        };
        let jittered = self.next.mul_f64(rand::rng().random_range(0.75..1.25));
        self.next = (self.next * 2).min(edge.config.timeouts.backoff_max);
        let end = (now + jittered).min(self.deadline);
        if tried {
            tokio::time::sleep_until((now + jittered / 4).min(self.deadline).into()).await;
        }
        // A closed channel means that the edge's surroundings are gone: the pause alone counts then.
        tokio::select! {
            () = tokio::time::sleep_until(end.into()) => {}
            Ok(()) = catalogue.changed() => {}
            Ok(()) = room.changed() => {}
        }
        true
    }
}
