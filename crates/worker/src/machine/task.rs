//! The task of one machine: takes inputs in order, records what [`step`] decided, performs the
//! effects, publishes. All state of the machine is here and nowhere else.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use atoll_driver::{DriverError, Exit, Running};
use atoll_model::machine::Event;
use atoll_model::row::MachineRow;
use atoll_model::{MachineId, MachineVersion, RowKey};
use atoll_rpc::contract::EarlierVersion;
use atoll_signals::with_causes;

use super::acting::finished_by;
use super::effects::LaunchError;
use super::restart::{WINDOW, verdict};
use super::step::{Cause, Effect, Input, Next, Phase, Step, Verdict, step};
use super::{Envelope, Handle, QUEUE, Sealed, Snapshot, events};
use crate::agent::Registry;
use crate::calls::{StopOptions, Usage};
use crate::checks::prober::{self, Observation};
use crate::clock::{Mint, rfc3339_ms};
use crate::config::WorkerConfig;
use crate::health::{Health, News};
use crate::logs::OwnLog;
use crate::row;
use crate::seams::{Deps, ImageError};
use crate::store::{Commit, DurableState, LastExit, Store, StoreError, Write};

/// What all machines' tasks share.
pub struct Context {
    pub config: WorkerConfig,
    pub deps: Deps,
    pub store: Store,
    pub mint: Mint,
    pub registry: Arc<Registry>,
}

impl Context {
    pub fn machine_dir(&self, machine: MachineId) -> PathBuf {
        self.config.state_dir.join("machines").join(machine.to_string())
    }

    pub fn cgroup(&self, machine: MachineId) -> String {
        format!("{}/machine-{machine}", self.config.kernel_prefix())
    }

    pub fn now_ms(&self) -> u64 {
        self.deps.clock.now_ms()
    }
}

/// A machine as it is when its task begins.
pub struct Origin {
    pub state: DurableState,
    pub sealed: Sealed,
    /// Oldest first.
    pub events: Vec<Event>,
    /// Newest first.
    pub versions: Vec<EarlierVersion>,
    /// Found running by an earlier agent's records.
    pub running: Option<Arc<dyn Running>>,
    /// How it ended while no agent looked.
    pub exit: Option<Exit>,
    /// The first transition: of creation or recovery.
    pub first: Step,
}

/// What effects report.
pub(super) enum Done {
    Prepared {
        version: MachineVersion,
        result: Result<(), ImageError>,
    },
    Launched(Result<Arc<dyn Running>, LaunchError>),
    Exited {
        run: u64,
        exit: Exit,
    },
    Paused(Result<(), DriverError>),
    Resumed(Result<(), DriverError>),
    /// A signal or kill was sent, or could not be.
    Told(&'static str, Result<(), DriverError>),
    Cleared,
    Removed,
}

/// A commit that several effects may await.
pub(super) type Recorded = Shared<BoxFuture<'static, Result<(), StoreError>>>;

/// Whether the caller waits for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    Awaited,
    /// What happened is a fact already, or adoption will find it.
    Later,
}

pub(super) struct Task {
    pub(super) context: Arc<Context>,
    pub(super) id: MachineId,
    pub(super) sealed: Sealed,
    pub(super) state: DurableState,
    /// Oldest first.
    pub(super) events: VecDeque<Event>,
    /// Newest first.
    pub(super) versions: Vec<EarlierVersion>,
    pub(super) running: Option<Arc<dyn Running>>,
    /// Counts runs of this task, so that news of an earlier run is not taken for the present one's.
    pub(super) run: u64,
    pub(super) health: Health,
    pub(super) probes: JoinSet<()>,
    pub(super) observations: (mpsc::Sender<Observation>, mpsc::Receiver<Observation>),
    pub(super) stop: StopOptions,
    /// The end under way was asked for.
    pub(super) end_requested: bool,
    /// As the node's edge told it last.
    pub(super) usage: Usage,
    pub(super) effects: JoinSet<Done>,
    /// Dropped to give up a launch that has not reached the driver.
    pub(super) launching: Option<oneshot::Sender<()>>,
    pub(super) kill_at: Option<Instant>,
    pub(super) back_off_until: Option<Instant>,
    pub(super) purge_at: Option<Instant>,
    pub(super) last_failure: Option<String>,
    pub(super) failures: u64,
    pub(super) published: Option<MachineRow>,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) log: OwnLog,
}

/// Starts the task of a machine and performs the first step's effects. Gives the machine as it was
/// before them, too.
pub fn spawn(context: Arc<Context>, origin: Origin) -> (Handle, Arc<Snapshot>) {
    let (inbox, requests) = mpsc::channel(QUEUE);
    let id = origin.sealed.bundle.machine;
    let config = &origin.sealed.bundle.config;
    let now = rfc3339_ms(context.now_ms());
    let health = match &origin.running {
        Some(_) => Health::adopted(config, &origin.state.checks, &origin.state.ready, &now),
        None => Health::none(config),
    };
    let log = OwnLog::new(&context.machine_dir(id));
    // Replaced by the first publication, below.
    let first = Snapshot {
        view: row::plain_view(&origin.sealed.bundle, &context.config.node, origin.first.phase.state()),
        phase: origin.first.phase,
        health: health.clone(),
        last_failure: None,
        failures: 0,
    };
    let (snapshot, observers) = watch::channel(Arc::new(first));
    let mut task = Task {
        id,
        sealed: origin.sealed,
        state: origin.state,
        events: origin.events.into(),
        versions: origin.versions,
        running: origin.running,
        run: 0,
        health,
        probes: JoinSet::new(),
        observations: mpsc::channel(QUEUE),
        stop: StopOptions::default(),
        end_requested: false,
        usage: Usage::default(),
        effects: JoinSet::new(),
        launching: None,
        kill_at: None,
        back_off_until: None,
        purge_at: None,
        last_failure: None,
        failures: 0,
        published: None,
        snapshot,
        context,
        log,
    };
    let before = std::mem::replace(&mut task.state.phase, origin.first.phase);
    // The row goes out before anybody can ask: an edge that reconnects must find every machine.
    task.publish();
    let first = observers.borrow().clone();
    tokio::spawn(async move {
        task.begin(before, origin.first.effects, origin.exit).await;
        task.work(requests).await;
    });
    (Handle { id, inbox, snapshot: observers }, first)
}

impl Task {
    async fn begin(&mut self, before: Phase, effects: Vec<Effect>, exit: Option<Exit>) {
        if let Some(running) = self.running.clone() {
            self.state.boot_id = Some(running.boot_id().to_owned());
            self.watch_run(running);
        }
        let mut writes = Vec::new();
        // A machine that was down has told its exit before.
        if let Some(exit) = exit.filter(|_| before.may_have_processes()) {
            let requested = matches!(before, Phase::Ending { .. });
            let restarting = matches!(self.state.phase, Phase::Clearing { then: Next::BackOff { .. } });
            let request = self.note_exit(&exit, requested, restarting);
            writes.push(self.event("exit", "stopped", events::BY_NODE.to_owned(), Some(request)));
        }
        self.arm_purge();
        if self.state.phase == Phase::Removed {
            // The agent before may have died between recording this and acting on it.
            writes.push(Write::ForgetSecrets { machine: self.id });
            self.context.deps.rows.delete(RowKey::Machine(self.id));
        }
        let recorded = self.record(writes, &effects).await;
        self.perform(effects, &recorded);
        self.publish();
    }

    async fn work(mut self, mut requests: mpsc::Receiver<Envelope>) {
        loop {
            let kill = at(self.kill_at);
            let back_off = at(self.back_off_until);
            let purge = at(self.purge_at);
            tokio::select! {
                request = requests.recv() => match request {
                    Some(envelope) => self.serve(envelope).await,
                    None => return,
                },
                Some(done) = self.effects.join_next() => match done {
                    Ok(done) => self.take(done).await,
                    // Effects hold no lock and are not cancelled while the task lives.
                    Err(error) => tracing::error!(machine = %self.id, %error, "an effect ended abnormally"),
                },
                Some(observation) = self.observations.1.recv() => self.observe(observation).await,
                () = kill => {
                    self.kill_at = None;
                    self.advance_later(Input::KillDue).await;
                }
                () = back_off => {
                    self.back_off_until = None;
                    self.advance_later(Input::BackOffOver).await;
                }
                () = purge => {
                    // Recorded at leisure: a purge that is lost is repeated by the next agent.
                    drop(self.context.store.write(vec![Write::Purge { machine: self.id }]).await);
                    self.context.registry.forget(self.id);
                    return;
                }
            }
        }
    }

    async fn take(&mut self, done: Done) {
        let input = match done {
            Done::Prepared { version, .. } if version != self.sealed.bundle.version => return,
            Done::Prepared { result: Ok(()), .. } => Input::Prepared,
            Done::Prepared { result: Err(error), .. } => {
                self.fail(format!("the image cannot be made ready: {}", with_causes(&error)));
                Input::PrepareFailed
            }
            Done::Launched(Ok(running)) => {
                self.launching = None;
                self.state.boot_id = Some(running.boot_id().to_owned());
                let woken = self.state.phase == (Phase::Starting { cause: Cause::Wake });
                let now = rfc3339_ms(self.context.now_ms());
                self.health = Health::fresh(&self.sealed.bundle.config, woken, &now);
                self.running = Some(running.clone());
                self.watch_run(running);
                self.note("Machine started").await;
                Input::Launched
            }
            Done::Launched(Err(error)) => {
                self.launching = None;
                let verdict = self.launch_verdict(&error);
                if !matches!(error, LaunchError::Cancelled) {
                    self.fail(with_causes(&error));
                    let text = format!("Machine did not start: {}", with_causes(&error));
                    self.note(&text).await;
                }
                Input::LaunchFailed { verdict }
            }
            Done::Exited { run, .. } if run != self.run => return,
            Done::Exited { exit, .. } => return self.exited(exit).await,
            Done::Paused(Ok(())) => Input::Paused,
            Done::Paused(Err(error)) => {
                self.note(&format!("Cannot suspend, stopping instead: {}", with_causes(&error))).await;
                Input::PauseFailed
            }
            Done::Resumed(Ok(())) => Input::Resumed,
            Done::Resumed(Err(error)) => {
                self.note(&format!("Cannot resume, starting afresh: {}", with_causes(&error))).await;
                Input::ResumeFailed
            }
            Done::Told(what, result) => {
                // A machine that ended in between is what was wanted; anything else is tried again.
                if let Err(error) = result
                    && !matches!(error, DriverError::NotRunning { .. })
                {
                    tracing::warn!(machine = %self.id, what, error = with_causes(&error), "the machine could not be told");
                }
                return;
            }
            Done::Cleared => Input::Cleared,
            Done::Removed => return self.removed().await,
        };
        self.advance_later(input).await;
    }

    async fn exited(&mut self, exit: Exit) {
        let requested = matches!(self.state.phase, Phase::Ending { .. });
        let verdict = self.exit_verdict(exit.code);
        let restarting = !requested && matches!(verdict, Verdict::RestartAfter { .. });
        self.run_over();
        let text = match (exit.oom_killed, exit.signal) {
            (true, _) => "Machine ran out of memory and was killed".to_owned(),
            (false, Some(signal)) => format!("Machine was ended by signal {signal}"),
            (false, None) => format!("Machine exited with code {}", exit.code),
        };
        self.note(&text).await;
        if !requested {
            self.fail(text);
        }
        let request = self.note_exit(&exit, requested, restarting);
        self.advance_with(Input::Exited { verdict }, Some(request), events::BY_NODE, Durability::Later).await.ok();
        self.end_requested = false;
    }

    /// Records the exit in the state; gives what its event carries.
    fn note_exit(&mut self, exit: &Exit, requested: bool, restarting: bool) -> serde_json::Value {
        if restarting {
            let now = self.context.now_ms();
            self.state.restarts.retain(|at| now.saturating_sub(*at) < WINDOW.as_millis() as u64);
            self.state.restarts.push(now);
            self.state.restart_count += 1;
        }
        self.state.last_exit = Some(LastExit {
            boot_id: self.state.boot_id.clone().unwrap_or_default(),
            code: exit.code,
            at_ms: exit.at_ms,
            oom_killed: exit.oom_killed,
        });
        events::exit_request(exit, requested, restarting, self.state.restart_count)
    }

    async fn removed(&mut self) {
        self.state.destroyed_at_ms = Some(self.context.now_ms());
        self.state.lease = None;
        self.advance_later(Input::RemoveDone).await;
        drop(self.context.store.write(vec![Write::ForgetSecrets { machine: self.id }]).await);
        self.sealed.sealed = Arc::from([]);
        self.arm_purge();
    }

    /// A line in the machine's log, unless its folder is being removed.
    async fn note(&self, text: &str) {
        if !matches!(self.state.phase, Phase::Removing | Phase::Removed) {
            self.log.line(self.context.now_ms(), text).await;
        }
    }

    fn arm_purge(&mut self) {
        if let Some(at) = self.state.destroyed_at_ms {
            let age = Duration::from_millis(self.context.now_ms().saturating_sub(at));
            self.purge_at = Some(Instant::now() + self.context.config.knobs.tombstone_for.saturating_sub(age));
        }
    }

    fn fail(&mut self, reason: String) {
        self.last_failure = Some(reason);
        self.failures += 1;
    }

    fn exit_verdict(&self, code: i32) -> Verdict {
        verdict(&self.sealed.bundle.config, code, &self.state.restarts, self.context.now_ms())
    }

    /// A start that failed for the host's reasons is tried again where the machine was to stay up;
    /// a first start says so at once.
    fn launch_verdict(&mut self, error: &LaunchError) -> Verdict {
        let comes_back = matches!(self.state.phase, Phase::Starting { cause: Cause::Restart });
        if error.is_final() {
            return Verdict::Fail;
        }
        if self.state.phase == (Phase::Starting { cause: Cause::Wake }) {
            // It has run before: the next request may try again.
            return Verdict::StayDown;
        }
        if !comes_back {
            return Verdict::Fail;
        }
        match self.exit_verdict(1) {
            verdict @ Verdict::RestartAfter { .. } => {
                self.state.restarts.push(self.context.now_ms());
                self.state.restart_count += 1;
                verdict
            }
            _ => Verdict::Fail,
        }
    }

    /// Watches the exit of a run and probes it.
    fn watch_run(&mut self, running: Arc<dyn Running>) {
        self.run += 1;
        let run = self.run;
        let context = &self.context;
        let address = context.deps.networks.ipv4(self.state.slot).into();
        let config = &self.sealed.bundle.config;
        self.probes = prober::start(config, address, &context.config.knobs, run, &self.observations.0);
        self.effects.spawn(async move { Done::Exited { run, exit: running.wait().await } });
    }

    fn run_over(&mut self) {
        self.running = None;
        self.run += 1;
        self.probes = JoinSet::new();
        self.health = Health::none(&self.sealed.bundle.config);
        self.usage.loads.clear();
        self.kill_at = None;
    }

    async fn observe(&mut self, observation: Observation) {
        if observation.run != self.run {
            return;
        }
        let now = rfc3339_ms(self.context.now_ms());
        let news = self.health.observe(&observation.role, observation.status, &observation.output, &now);
        if news == News::Status {
            // For the next agent: an adopted machine goes on with what was known.
            drop(self.record(Vec::new(), &[]).await);
        }
        if news != News::None {
            self.publish();
        }
    }

    /// A transition that nobody waits for.
    pub(super) async fn advance_later(&mut self, input: Input) {
        let request = match input {
            Input::LaunchFailed { .. } | Input::PrepareFailed => {
                self.last_failure.as_ref().map(|reason| serde_json::json!({ "error": reason }))
            }
            _ => None,
        };
        // Not waiting for the disk, it cannot fail.
        self.advance_with(input, request, events::BY_NODE, Durability::Later).await.ok();
    }

    /// One transition: decide, record, act, publish. When it was to be recorded first and could not
    /// be, nothing has happened.
    pub(super) async fn advance_with(
        &mut self,
        input: Input,
        request: Option<serde_json::Value>,
        caller: &str,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.advance_and_write(input, request, caller, durability, Vec::new()).await
    }

    /// [`Self::advance_with`], with writes that become durable together with the transition.
    pub(super) async fn advance_and_write(
        &mut self,
        input: Input,
        request: Option<serde_json::Value>,
        caller: &str,
        durability: Durability,
        mut writes: Vec<Write>,
    ) -> Result<(), StoreError> {
        let before = self.state.clone();
        let events_before = self.events.len();
        let Step { phase, effects } = step(before.phase, input);
        let now = self.context.now_ms();
        self.state.phase = phase;
        if phase.state() != before.phase.state() {
            self.state.changed_at_ms = now;
            self.state.updated_at_ms = now;
        }
        if let Some((kind, status, source)) = events::of_transition(input, before.phase, phase, caller) {
            writes.push(self.event(kind, status, source, request));
        }
        if let Some(kind) = finished_by(input) {
            let outcome = phase.state().to_string();
            writes.push(Write::Outcome { machine: self.id, kind, outcome, at_ms: now });
        }
        let recorded = self.record(writes, &effects).await;
        if durability == Durability::Awaited
            && let Err(error) = recorded.clone().await
        {
            self.state = before;
            self.events.truncate(events_before);
            return Err(error);
        }
        if phase == Phase::Removed && before.phase != phase {
            // Queued behind the record above: whoever gets the slot next is recorded after it.
            self.context.registry.release(self.id);
            self.context.deps.rows.delete(RowKey::Machine(self.id));
        }
        self.perform(effects, &recorded);
        self.publish();
        Ok(())
    }

    pub(super) fn event(
        &mut self,
        kind: &str,
        status: &str,
        source: String,
        request: Option<serde_json::Value>,
    ) -> Write {
        let now = self.context.now_ms();
        let event = Event {
            id: self.context.mint.event(now),
            event_type: kind.to_owned(),
            status: status.to_owned(),
            source,
            timestamp: now,
            request,
        };
        let keep = self.context.config.knobs.events_kept;
        self.events.push_back(event.clone());
        while self.events.len() > keep {
            self.events.pop_front();
        }
        Write::Event { machine: self.id, event: Box::new(event), keep }
    }

    /// Queues the present state, what else belongs to it, and the intents of what is to be done.
    pub(super) async fn record(&mut self, mut writes: Vec<Write>, effects: &[Effect]) -> Recorded {
        self.state.checks = self.health.results();
        self.state.ready = self.health.ready();
        if effects.contains(&Effect::Launch) {
            self.state.boot_id = Some(self.context.mint.boot_id());
        }
        writes.push(Write::State { machine: self.id, state: Box::new(self.state.clone()) });
        let at_ms = self.context.now_ms();
        writes.extend(effects.iter().filter_map(|effect| self.intent(*effect)).map(|intent| Write::Intent {
            machine: self.id,
            intent,
            at_ms,
        }));
        let commit: Commit = self.context.store.write(writes).await;
        commit.wait().boxed().shared()
    }
}

/// Sleeps until the moment, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
