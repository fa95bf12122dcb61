//! The guard's loop. What it decides is decided by pure functions; here they are fed and obeyed.
//!
//! bird is brought in line with the decision whenever one of them changes, and compared with it every second,
//! so that a word that was lost costs a second, not the truth. A bird that cannot be talked to is killed: its
//! neighbours then withdraw what it announced.

use std::collections::VecDeque;
use std::process::Child;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use atoll_signals::with_causes;

use super::daemon::{Daemon, START_LIMIT};
use super::files::Files;
use super::probe::{Outcome, Probe};
use super::report::{Change, MAX_CHANGES, Report, Session};
use super::starving::starves;
use super::system::{self, Signals};
use super::upgrade::{Legacy, Program, Running, VERSION};
use super::wanted::Wanted;
use super::{Attempt, GuardError, Options};
use crate::announcements::{Announcements, Routes, changes, decide};
use crate::bird::config::{protocol, render, session};
use crate::health::{Health, Sign};
use crate::load::{Level, Load};
use crate::plan::Plan;

/// Of the guard and bird: above everything ordinary, so that signs of life are sent in time.
const REAL_TIME: i32 = 10;
/// How often bird is compared with what it was told.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that bird may leave unanswered; it may be busy with a long configuration.
const SILENCES: u32 = 3;
/// How soon a bird that ended is started again, and one that starts is spoken to.
const RESTART: Duration = Duration::from_secs(1);
const LISTENING: Duration = Duration::from_millis(20);
/// How long bird may take to say goodbye to its neighbours.
const GOODBYE: Duration = Duration::from_secs(2);
/// Without a plan nobody is probed; this is how often one is looked for.
const IDLE: Duration = Duration::from_millis(100);

/// What bird was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    pub generation: u64,
    /// Of what is wanted.
    #[serde(default)]
    pub edition: u64,
    pub announced: bool,
    pub busy: bool,
}

/// Runs until asked to end; bird ends with it.
///
/// # Errors
/// If the machine refuses something that the guard cannot do without.
pub fn run(options: &Options) -> Result<(), GuardError> {
    let signals = Signals::block(&[libc::SIGTERM, libc::SIGINT, libc::SIGUSR2, libc::SIGCHLD])
        .attempting(|| "block signals".to_owned())?;
    let mut guard = Guard::begin(options)?;
    while guard.turn(&signals)? {}
    guard.end(&signals)
}

struct Bird {
    daemon: Daemon,
    /// None until it listens.
    told: Option<Told>,
    /// The configuration that it was started with.
    begun_with: Told,
    /// Looks in a row that it did not answer.
    silences: u32,
}

struct Guard {
    options: Options,
    files: Files,
    program: Program,
    real_time: bool,
    wanted: Wanted,
    health: Health,
    load: Load,
    probe: Probe,
    bird: Option<Bird>,
    /// The latest decision, and since when its reason holds.
    decided: Option<(Announcements, u64)>,
    announced: Routes,
    changes: VecDeque<Change>,
    sessions: Vec<Session>,
    reported: Option<Report>,
    next_tick: Duration,
    next_look: Duration,
    next_try: Duration,
    successor: Option<Child>,
}

impl Guard {
    fn begin(options: &Options) -> Result<Self, GuardError> {
        let now = system::monotonic();
        let program = Program::own().attempting(|| "find our own program".to_owned())?;
        let real_time = match system::set_fifo(REAL_TIME) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "real-time priority was refused: a busy machine will give false alarms");
                false
            }
        };
        let legacy = options.resume.map(Legacy::take).transpose()?;
        let files = Files::open(&options.folder, &options.plan, options.served.as_deref())?;
        let mut guard = Self {
            options: options.clone(),
            files,
            program,
            real_time,
            wanted: Wanted::default(),
            health: Health::unknown(now),
            load: Load::default(),
            probe: Probe::default(),
            bird: None,
            decided: None,
            announced: Routes::new(),
            changes: VecDeque::new(),
            sessions: Vec::new(),
            reported: None,
            next_tick: now,
            next_look: now,
            next_try: now,
            successor: None,
        };
        match legacy {
            Some(legacy) => guard.resume(legacy),
            None => guard.wanted = Wanted::remembered(&guard.files),
        }
        Ok(guard)
    }

    /// Goes on where an older program of this process was.
    fn resume(&mut self, legacy: Legacy) {
        let edition = legacy.bird.as_ref().map_or(0, |bird| bird.told.edition);
        self.wanted = Wanted::resumed(legacy.plan, legacy.written, edition);
        (self.health, self.load, self.changes) = (legacy.health, legacy.load, legacy.changes);
        self.bird = legacy.bird.and_then(|Running { pid, started, told }| {
            let daemon = Daemon::adopt(Pid::from_raw(pid)?, &self.files.socket(), started);
            Some(Bird { daemon, told: Some(told), begun_with: told, silences: 0 })
        });
        // Nothing changed for anybody, so that nothing is told as a change.
        self.decided = self.wanted.plan.as_ref().zip(legacy.since).map(|(plan, since)| (self.decide(plan), since));
        self.announced = self.decided.as_ref().map(|(decision, _)| decision.routes.clone()).unwrap_or_default();
        tracing::info!(bird = self.bird.as_ref().map(|bird| bird.daemon.pid.as_raw_nonzero()), "upgraded in place");
    }

    /// One round of waiting and acting; false once asked to end.
    fn turn(&mut self, signals: &Signals) -> Result<bool, GuardError> {
        let now = system::monotonic();
        // Before the clock is asked: an answer that has arrived is no miss, however late we are.
        if let Some(outcome) = self.probe.go_on(now) {
            self.judge(outcome, now);
        }
        if self.next_tick <= now {
            self.tick(now);
        }
        self.settle(now)?;
        if self.next_look <= now {
            self.look(now);
            self.report()?;
            self.next_look = now + LOOK;
        }
        self.wait(signals)?;
        while let Some(signal) = signals.next().attempting(|| "read a signal".to_owned())? {
            match signal {
                libc::SIGCHLD => self.see_to_children()?,
                libc::SIGUSR2 => self.try_successor(),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn wait(&self, signals: &Signals) -> Result<(), GuardError> {
        let starting = self.bird.as_ref().is_none_or(|bird| bird.told.is_none()) && self.wanted.plan.is_some();
        let next = self.next_tick.min(self.next_look);
        let next = if starting { next.min(self.next_try) } else { next };
        let pause = next.saturating_sub(system::monotonic());
        let limit = Timespec { tv_sec: pause.as_secs().cast_signed(), tv_nsec: pause.subsec_nanos().into() };
        let mut awaited = vec![PollFd::new(signals, PollFlags::IN)];
        if self.probe.asked().is_some() {
            awaited.extend(self.probe.awaits().map(|(socket, flags)| PollFd::from_borrowed_fd(socket, flags)));
        }
        match rustix::event::poll(&mut awaited, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).attempting(|| "wait".to_owned()),
        }
    }

    /// The beat: the last question is judged, the files looked at, the next question put.
    fn tick(&mut self, now: Duration) {
        self.look_at_files();
        let Some(plan) = &self.wanted.plan else {
            self.next_tick = now + IDLE;
            return;
        };
        let (period, edge) = (Duration::from_millis(plan.edge.probe_ms), plan.edge.address);
        if self.probe.asked().is_some() {
            self.probe.give_up();
            // If we ourselves stood still, as a frozen machine does, silence says nothing of the edge.
            if now.saturating_sub(self.next_tick) < period {
                self.judge(Outcome::Missed, now);
            }
        }
        if let Some(outcome) = self.probe.ask(edge, now) {
            self.judge(outcome, now);
        }
        self.next_tick = if self.next_tick + period > now { self.next_tick + period } else { now + period };
    }

    fn look_at_files(&mut self) {
        let edge = |wanted: &Wanted| wanted.plan.as_ref().map(|plan| plan.edge.address);
        let before = edge(&self.wanted);
        if self.wanted.look(&mut self.files) && before != edge(&self.wanted) {
            self.probe.give_up();
        }
    }

    fn judge(&mut self, outcome: Outcome, now: Duration) {
        let Some(plan) = &self.wanted.plan else { return };
        let (sign, took) = match outcome {
            Outcome::Answered(took) => (Sign::Answered, took),
            Outcome::Missed => {
                let starves = plan.edge.pid_file.as_deref().is_some_and(starves);
                let sign = if starves { Sign::Starved } else { Sign::Missed };
                (sign, Duration::from_millis(plan.edge.probe_ms))
            }
        };
        let before = (self.health.serves(), self.load.level());
        self.health.probed(sign, now);
        self.load.answered(took, plan.edge.slow, now);
        let after = (self.health.serves(), self.load.level());
        if before != after {
            tracing::info!(serves = after.0, level = ?after.1, hold = ?self.health.hold(), "the edge changed");
        }
    }

    /// Brings bird in line with what is decided.
    fn settle(&mut self, now: Duration) -> Result<(), GuardError> {
        let Some(plan) = &self.wanted.plan else { return Ok(()) };
        let decision = self.decide(plan);
        let (announced, busy) = (decision.reason.announces(), self.load.level() != Level::Normal);
        let edition = self.wanted.edition;
        let wanted = Told { generation: plan.generation, edition, announced, busy: busy && announced };
        if self.decided.as_ref().is_none_or(|(before, _)| *before != decision) {
            self.note(decision);
        }
        let Some(bird) = &mut self.bird else {
            return if self.next_try <= now { self.start_bird(now) } else { Ok(()) };
        };
        let Some(told) = bird.told else {
            if self.next_try <= now {
                self.meet_bird(now)?;
            }
            return Ok(());
        };
        if told == wanted {
            return Ok(());
        }
        if told.announced && !wanted.announced {
            self.withdraw()?;
        } else if self.next_try <= now {
            self.configure(wanted, now)?;
        }
        Ok(())
    }

    fn decide(&self, plan: &Plan) -> Announcements {
        decide(plan, self.health.serves(), self.load.level())
    }

    /// Notes a decision for the log and the report.
    fn note(&mut self, decision: Announcements) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        for change in changes(&self.announced, &decision.routes) {
            tracing::info!(target: "atoll_audit", reason = ?decision.reason, "{change}");
            self.changes.push_back(Change { at: since, reason: decision.reason, change });
        }
        let surplus = self.changes.len().saturating_sub(MAX_CHANGES);
        self.changes.drain(..surplus);
        self.announced = decision.routes.clone();
        let since = match &self.decided {
            Some((before, since)) if before.reason == decision.reason => *since,
            _ => since,
        };
        self.decided = Some((decision, since));
        // The report is due, though a moment later: neighbours first.
        self.next_look = self.next_look.min(system::monotonic());
    }

    fn start_bird(&mut self, now: Duration) -> Result<(), GuardError> {
        let Some(plan) = &self.wanted.plan else { return Ok(()) };
        // It is told to announce once it listens, if the edge then serves.
        let edition = self.wanted.edition;
        let begun_with = Told { generation: plan.generation, edition, announced: false, busy: false };
        self.files.write_config(&render(plan, false, false))?;
        let socket = self.files.socket();
        match Daemon::start(&self.options.bird, &self.files.config(), &socket, now) {
            Ok(daemon) => {
                tracing::info!(pid = daemon.pid.as_raw_nonzero(), "bird was started");
                self.bird = Some(Bird { daemon, told: None, begun_with, silences: 0 });
                self.next_try = now + LISTENING;
            }
            Err(error) => {
                tracing::error!(error = with_causes(&error), "bird cannot be started");
                self.next_try = now + RESTART;
            }
        }
        Ok(())
    }

    /// Tries whether a bird that was started listens.
    fn meet_bird(&mut self, now: Duration) -> Result<(), GuardError> {
        let Some(bird) = &mut self.bird else { return Ok(()) };
        let late = now.saturating_sub(bird.daemon.started) > START_LIMIT;
        match bird.daemon.control() {
            Ok(_) => bird.told = Some(bird.begun_with),
            Err(error) if late => {
                tracing::error!(error = with_causes(&error), "bird does not listen and is killed");
                bird.daemon.signal(Signal::KILL)?;
                self.next_try = now + RESTART;
            }
            // Its socket is yet to come.
            Err(_) => self.next_try = now + LISTENING,
        }
        Ok(())
    }

    fn withdraw(&mut self) -> Result<(), GuardError> {
        let (Some(bird), Some(plan)) = (&mut self.bird, &self.wanted.plan) else { return Ok(()) };
        match bird.daemon.control().and_then(|control| control.withdraw_all()) {
            Ok(()) => {
                bird.told = bird.told.map(|told| Told { announced: false, busy: false, ..told });
                self.files.write_config(&render(plan, false, false))
            }
            Err(error) => {
                tracing::error!(error = with_causes(&error), "bird does not withdraw and is killed");
                bird.daemon.signal(Signal::KILL)
            }
        }
    }

    fn configure(&mut self, wanted: Told, now: Duration) -> Result<(), GuardError> {
        let (Some(bird), Some(plan)) = (&mut self.bird, &self.wanted.plan) else { return Ok(()) };
        self.files.write_config(&render(plan, wanted.busy, wanted.announced))?;
        match bird.daemon.control().and_then(|control| control.configure()) {
            Ok(()) => bird.told = Some(wanted),
            Err(error) => {
                tracing::error!(error = with_causes(&error), "bird was not told");
                bird.daemon.hang_up();
                self.next_try = now + RESTART;
            }
        }
        Ok(())
    }

    /// Compares bird with what it was told.
    fn look(&mut self, now: Duration) {
        let (Some(bird), Some(plan)) = (&mut self.bird, &self.wanted.plan) else {
            self.sessions.clear();
            return;
        };
        let Some(told) = bird.told else { return };
        let shown = match bird.daemon.control().and_then(|control| control.protocols()) {
            Ok(shown) => shown,
            Err(error) => {
                tracing::error!(error = with_causes(&error), "bird does not answer");
                bird.daemon.hang_up();
                bird.silences += 1;
                if bird.silences >= SILENCES
                    && let Err(error) = bird.daemon.signal(Signal::KILL)
                {
                    tracing::error!(error = with_causes(&error), "bird was not killed");
                }
                return;
            }
        };
        bird.silences = 0;
        let find = |name: String| shown.iter().find(move |shown| shown.name == name);
        self.sessions = (plan.upstreams.iter())
            .map(|upstream| {
                let shown = find(session(upstream));
                let established = shown.is_some_and(|shown| shown.established());
                let info = shown.map(|shown| shown.info.clone()).unwrap_or_default();
                Session { upstream: upstream.name.as_str().to_owned(), established, info }
            })
            .collect();
        if told.edition != self.wanted.edition {
            return;
        }
        let as_told = |prefix| find(protocol(prefix)).is_some_and(|shown| (shown.state == "up") == told.announced);
        if let Some(prefix) = plan.prefixes.iter().find(|prefix| !as_told(**prefix)) {
            tracing::warn!(%prefix, announced = told.announced, "bird does not do as it was told");
            // Is told once more, whatever it does now.
            bird.told = Some(Told { generation: 0, ..told });
            self.next_try = now;
        }
    }

    fn see_to_children(&mut self) -> Result<(), GuardError> {
        if let Some(bird) = &self.bird
            && let Some(status) = bird.daemon.ended()?
        {
            tracing::error!(?status, "bird ended");
            self.bird = None;
            self.sessions.clear();
            self.next_try = system::monotonic() + RESTART;
        }
        let Some(successor) = &mut self.successor else { return Ok(()) };
        let Some(status) = successor.try_wait().attempting(|| "wait for the newer program".to_owned())? else {
            return Ok(());
        };
        self.successor = None;
        if !status.success() {
            tracing::error!(%status, "the newer program could not go on, so this one does");
            return Ok(());
        }
        // Returns only if it failed.
        let error = self.program.become_new(&self.legacy());
        tracing::error!(error = with_causes(&error), "the newer program did not start, so this one goes on");
        Ok(())
    }

    fn try_successor(&mut self) {
        if self.successor.is_some() {
            return;
        }
        match self.program.try_out(&self.legacy()) {
            Ok(child) => self.successor = Some(child),
            Err(error) => tracing::error!(error = with_causes(&error), "the newer program cannot be tried"),
        }
    }

    fn legacy(&self) -> Legacy {
        let bird = self.bird.as_ref().map(|bird| Running {
            pid: bird.daemon.pid.as_raw_nonzero().get(),
            started: bird.daemon.started,
            told: bird.told.unwrap_or(bird.begun_with),
        });
        let since = self.decided.as_ref().map(|(_, since)| *since);
        let (plan, written) = (self.wanted.plan.clone(), self.wanted.written().cloned());
        let (health, load, changes) = (self.health.clone(), self.load.clone(), self.changes.clone());
        Legacy { version: VERSION, bird, plan, written, health, load, since, changes }
    }

    /// Writes the report, if anything in it changed.
    fn report(&mut self) -> Result<(), GuardError> {
        let Some((decision, since)) = &self.decided else { return Ok(()) };
        let report = Report {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            bird: self.bird.as_ref().map(|bird| bird.daemon.pid.as_raw_nonzero().get()),
            real_time: self.real_time,
            generation: self.wanted.plan.as_ref().map(|plan| plan.generation),
            plan_refused: self.wanted.plan_refused.clone(),
            served_refused: self.wanted.served_refused.clone(),
            reason: decision.reason,
            since: *since,
            announced: decision.routes.clone(),
            sessions: self.sessions.clone(),
            changes: self.changes.iter().cloned().collect(),
        };
        if self.reported.as_ref() == Some(&report) {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::from);
        self.files.write_report(&text.attempting(|| "write the report".to_owned())?)?;
        self.reported = Some(report);
        Ok(())
    }

    /// Lets bird say goodbye; it is killed with us if it does not.
    fn end(self, signals: &Signals) -> Result<(), GuardError> {
        let Some(bird) = self.bird else { return Ok(()) };
        bird.daemon.signal(Signal::TERM)?;
        let deadline = system::monotonic() + GOODBYE;
        while bird.daemon.ended()?.is_none() && system::monotonic() < deadline {
            let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            match rustix::event::poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&pause)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).attempting(|| "wait for bird".to_owned()),
            }
            while signals.next().attempting(|| "read a signal".to_owned())?.is_some() {}
        }
        Ok(())
    }
}
