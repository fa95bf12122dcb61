//! A request's way to a machine: choose, try, and if that failed choose again, until a machine
//! answers or nothing more may be tried.
//!
//! What may be tried again: anything of which no machine has seen a byte; and requests whose method
//! may be repeated, while all that was read of their body is still at hand.

use std::sync::Arc;
use std::time::Instant;

use atoll_catalogue::Snapshot;
use atoll_model::row::MachineRow;
use atoll_model::{AppName, MachineId};
use http::header::{HeaderMap, HeaderValue};
use http::{Method, Request, Uri};
use hyper::body::Incoming;
use rand::RngExt;
use tokio::sync::watch;

use crate::body::{Recording, RequestBody};
use crate::core::Core;
use crate::errors::{Cause, Failure};
use crate::headers;
use crate::node::{Answer, Exchange, OwnView, Reached, Setback, serve};
use crate::select::{Decision, Query, Target, Unusable, select};
use crate::steering::Steering;

/// A request that is ready to be sent, as often as it takes.
pub(crate) struct Journey {
    pub app: AppName,
    /// External port.
    pub port: u16,
    pub steering: Steering,
    pub method: Method,
    /// Path and query only.
    pub uri: Uri,
    pub headers: HeaderMap,
    /// `None`: the request has no body.
    pub body: Option<Recording<Incoming>>,
    /// The protocol to switch to.
    pub upgrade: Option<HeaderValue>,
    pub began: Instant,
}

/// Where a journey ended.
pub(crate) struct Arrival {
    pub result: Result<Answer, Failure>,
    /// The last machine that was tried.
    pub machine: Option<Arc<MachineRow>>,
    pub attempts: u32,
}

/// What a journey has learnt on its way.
struct Log {
    attempts: u32,
    machine: Option<Arc<MachineRow>>,
    cause: Option<Cause>,
    excluded: Vec<MachineId>,
    /// Machines were tried since the last pause.
    tried: bool,
    last_resort: bool,
}

impl Journey {
    pub async fn run(&self, core: &Arc<Core>) -> Arrival {
        let mut log =
            Log { attempts: 0, machine: None, cause: None, excluded: Vec::new(), tried: false, last_resort: false };
        let result = self.find_answer(core, &mut log).await;
        if let Some(body) = &self.body {
            body.release();
            if body.overflowed() {
                core.edge.counters.replay_overflows.one();
            }
        }
        core.edge.counters.retries.add(u64::from(log.attempts.saturating_sub(1)));
        Arrival { result, machine: log.machine, attempts: log.attempts }
    }

    async fn find_answer(&self, core: &Arc<Core>, log: &mut Log) -> Result<Answer, Failure> {
        let edge = &core.edge;
        let deadline = self.began + edge.config.timeouts.hold;
        let mut pause = Pause::new(core, deadline);
        loop {
            let snapshot = edge.surroundings.routes.snapshot();
            match self.decide(core, &snapshot, &log.excluded) {
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
                    if log.attempts >= edge.config.limits.attempts {
                        return Err(Failure::held_too_long(None, log.cause));
                    }
                    match self.attempt(core, &target, log, deadline).await? {
                        Ok(answer) => return Ok(answer),
                        Err(setback) => self.note(&target, setback, log)?,
                    }
                }
            }
        }
    }

    fn decide(&self, core: &Core, snapshot: &Snapshot, excluded: &[MachineId]) -> Decision {
        let edge = &core.edge;
        let own = OwnView::new(&edge.machines, Instant::now());
        let query = Query {
            snapshot,
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

    /// The outer error ends the journey: the request cannot be sent again.
    async fn attempt(
        &self,
        core: &Arc<Core>,
        target: &Target,
        log: &mut Log,
        deadline: Instant,
    ) -> Result<Result<Answer, Setback>, Failure> {
        let request = self.request_for(target).ok_or_else(|| Failure::not_repeatable(log.cause))?;
        log.attempts += 1;
        log.tried = true;
        log.machine = Some(target.machine.clone());
        if target.local {
            let exchange = Exchange {
                core,
                row: &target.machine,
                service: target.service,
                upgrade: self.upgrade.is_some(),
                last_resort: log.last_resort,
                deadline,
            };
            return Ok(serve(&exchange, request).await);
        }
        let sending = core.peers.send(core, target, self.port, self.upgrade.as_ref(), log.last_resort, request);
        let outcome = tokio::time::timeout_at(deadline.into(), sending).await;
        // Beyond the deadline nothing is tried again, so what the machine saw no longer matters.
        Ok(outcome.unwrap_or(Err(Setback::perhaps(Cause::PeerUnreachable))))
    }

    fn request_for(&self, target: &Target) -> Option<Request<RequestBody>> {
        let body = match &self.body {
            None => RequestBody::Empty,
            Some(recording) => RequestBody::Replay(recording.play()?),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(protocol) = &self.upgrade {
            headers::set_upgrade(request.headers_mut(), protocol.clone());
        }
        if let Some(preferred) = self.steering.preferred_instance()
            && preferred != target.machine.id
        {
            headers::preferred_unavailable(request.headers_mut(), preferred);
        }
        Some(request)
    }

    fn note(&self, target: &Target, setback: Setback, log: &mut Log) -> Result<(), Failure> {
        tracing::debug!(
            app = %self.app, machine = %target.machine.id, code = setback.cause.code(), reached = ?setback.reached,
            "an attempt brought no answer"
        );
        log.cause = Some(setback.cause);
        if setback.reached == Reached::Perhaps && !self.method.is_idempotent() {
            return Err(Failure::broken(setback.cause));
        }
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
    next: std::time::Duration,
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
