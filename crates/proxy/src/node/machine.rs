//! One machine of this node as its edge sees it: who is in it now, whether it runs, and the gate that
//! keeps requests out while it is being stopped for idleness.
//!
//! ```text
//!            last request ends, idle long enough
//!   open ────────────────────────────────────────► stopping ──┐
//!    ▲   (requests enter, up to the hard limit)   (they wait)  │ the worker is done
//!    └─────────────────────────────────────────────────────────┘
//! ```
//!
//! Counting and closing the gate happen under one lock: no request slips in between "nobody is in
//! there" and "stop it". A cordoned machine's door is closed the same way, for as long as it is
//! cordoned: once it is, those inside are all there will ever be, and whoever waits for the machine to
//! drain can count on the number.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_model::row::MachineRow;
use atoll_model::service::LoadBucket;
use atoll_model::{MachineState, MachineVersion};
use tokio::sync::{Notify, watch};

use crate::surroundings::{WakeError, Woken};

/// For how long own knowledge outlives a change of the row: rows of a machine that was just woken may
/// still tell of the moments before.
const BELIEF_OUTLIVES_ROW: Duration = Duration::from_secs(1);

pub(crate) struct Machine {
    pub version: MachineVersion,
    state: Mutex<State>,
    /// The gate opened again.
    reopened: Notify,
    signals: Arc<Signals>,
}

/// What other tasks wait for.
pub(crate) struct Signals {
    /// Marked changed when a machine that was at its hard limit has room again.
    pub room: watch::Sender<u64>,
    /// Some load changed since the last report.
    pub load_changed: Notify,
}

impl Signals {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { room: watch::Sender::new(0), load_changed: Notify::new() })
    }
}

struct State {
    /// By service index: open requests, upgraded connections and streams.
    open: Vec<u32>,
    last_active: Instant,
    /// The row's stamp by which `last_active` was last set.
    seen_up: Option<Stamp>,
    belief: Option<Belief>,
    stopping: bool,
    /// Cordoned: nobody enters until it is not.
    closed: bool,
    wake: Option<watch::Receiver<WakeOutcome>>,
}

pub(crate) type WakeOutcome = Option<Result<Woken, WakeError>>;

/// Tells one state of a row from the next.
type Stamp = (MachineState, u64);

fn stamp(row: &MachineRow) -> Stamp {
    (row.state, row.changed_at_ms)
}

/// What this edge saw for itself, while the row said something else.
struct Belief {
    running: bool,
    row: Stamp,
    at: Instant,
}

/// Whether a request may enter.
pub(crate) enum Admission {
    Granted(Permit),
    AtHardLimit,
    /// It is being stopped: wait for [`Machine::reopened`] and ask again.
    Stopping,
    /// It is cordoned: go elsewhere.
    Closed,
}

/// How a caller of [`Machine::join_wake`] takes part.
pub(crate) enum WakePart {
    /// Nobody wakes it yet: call the worker and send the outcome.
    Lead(watch::Sender<WakeOutcome>, watch::Receiver<WakeOutcome>),
    Follow(watch::Receiver<WakeOutcome>),
}

impl Machine {
    pub fn new(row: &MachineRow, signals: Arc<Signals>, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            version: row.version,
            state: Mutex::new(State {
                open: vec![0; row.services.len()],
                last_active: now,
                seen_up: None,
                belief: None,
                stopping: false,
                closed: row.cordoned,
                wake: None,
            }),
            reopened: Notify::new(),
            signals,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn admit(self: &Arc<Self>, service: usize, hard_limit: Option<u32>) -> Admission {
        let mut state = self.lock();
        if state.closed {
            return Admission::Closed;
        }
        if state.stopping {
            return Admission::Stopping;
        }
        let Some(open) = state.open.get_mut(service) else { return Admission::AtHardLimit };
        if hard_limit.is_some_and(|limit| *open >= limit) {
            return Admission::AtHardLimit;
        }
        *open += 1;
        drop(state);
        self.signals.load_changed.notify_one();
        Admission::Granted(Permit { machine: self.clone(), service, hard_limit })
    }

    /// Waits while the machine is being stopped.
    pub async fn reopened(&self) {
        let reopened = self.reopened.notified();
        tokio::pin!(reopened);
        reopened.as_mut().enable();
        if self.lock().stopping {
            reopened.await;
        }
    }

    fn leave(&self, service: usize, hard_limit: Option<u32>) {
        let mut state = self.lock();
        state.last_active = Instant::now();
        let Some(open) = state.open.get_mut(service) else { return };
        let was_full = hard_limit.is_some_and(|limit| *open >= limit);
        *open = open.saturating_sub(1);
        drop(state);
        if was_full {
            self.signals.room.send_modify(|generation| *generation += 1);
        }
        self.signals.load_changed.notify_one();
    }

    /// Follows the row's word on whether it is cordoned, and gives who is inside.
    pub fn close(&self, cordoned: bool) -> Vec<u32> {
        let mut state = self.lock();
        state.closed = cordoned;
        state.open.clone()
    }

    pub fn bucket(&self, row: &MachineRow, service: usize) -> Option<LoadBucket> {
        let open = *self.lock().open.get(service)?;
        Some(row.services.get(service)?.service.limits().bucket(open))
    }

    /// Whether it runs, as far as this edge saw for itself; `None`: ask the row.
    pub fn running(&self, row: &MachineRow, now: Instant) -> Option<bool> {
        let state = self.lock();
        let belief = state.belief.as_ref()?;
        let fresh = belief.row == stamp(row) || now.duration_since(belief.at) < BELIEF_OUTLIVES_ROW;
        fresh.then_some(belief.running)
    }

    pub fn believe(&self, row: &MachineRow, running: bool, now: Instant) {
        self.lock().belief = Some(Belief { running, row: stamp(row), at: now });
    }

    /// Forgets what it saw: a connection just proved it wrong.
    pub fn doubt(&self) {
        self.lock().belief = None;
    }

    /// Takes part in the one wake that is under way, or begins it.
    pub fn join_wake(&self) -> WakePart {
        let mut state = self.lock();
        match &state.wake {
            // A lead that went away without an outcome leaves a closed channel behind.
            Some(under_way) if under_way.borrow().is_none() && under_way.has_changed().is_ok() => {
                WakePart::Follow(under_way.clone())
            }
            _ => {
                let (outcome, receiver) = watch::channel(None);
                state.wake = Some(receiver.clone());
                WakePart::Lead(outcome, receiver)
            }
        }
    }

    /// How many are in it, and since when nobody has been. Idleness counts from when the row first
    /// said that the machine is up, at the earliest.
    pub fn idleness(&self, row: &MachineRow, now: Instant) -> (u32, Duration) {
        let mut state = self.lock();
        if state.seen_up != Some(stamp(row)) {
            state.seen_up = Some(stamp(row));
            state.last_active = now;
        }
        (state.open.iter().sum(), now.saturating_duration_since(state.last_active))
    }

    /// Closes the gate, unless somebody is inside or it is closed already.
    pub fn begin_stop(&self) -> bool {
        let mut state = self.lock();
        let free = !state.stopping && state.open.iter().all(|open| *open == 0);
        state.stopping |= free;
        free
    }

    /// Opens the gate; with `stopped`, the next request has to wake the machine.
    pub fn end_stop(&self, row: &MachineRow, stopped: bool, now: Instant) {
        let mut state = self.lock();
        state.stopping = false;
        state.last_active = now;
        if stopped {
            state.belief = Some(Belief { running: false, row: stamp(row), at: now });
        }
        drop(state);
        self.reopened.notify_waiters();
    }
}

/// One request, upgraded connection or stream inside a machine. Dropping it is leaving.
pub(crate) struct Permit {
    machine: Arc<Machine>,
    service: usize,
    hard_limit: Option<u32>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.machine.leave(self.service, self.hard_limit);
    }
}

#[cfg(test)]
mod tests {
    use atoll_model::row::Row;
    use proptest::prelude::*;

    use super::*;

    fn row(state: &str, changed_at_ms: u64) -> MachineRow {
        let row = serde_json::from_value(serde_json::json!({
            "kind": "machine", "id": "00000000000001", "app": "web", "network": 1, "node": "ams1", "region": "ams",
            "version": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "state": state, "private_ipv4": "10.0.0.2",
            "private_ipv6": "fdaa::2", "services": [{"internal_port": 80}, {"internal_port": 81}],
            "changed_at_ms": changed_at_ms,
        }));
        match row.unwrap() {
            Row::Machine(row) => row,
            other => panic!("{other:?} is no machine"),
        }
    }

    fn machine() -> (Arc<Machine>, Instant) {
        let now = Instant::now();
        (Machine::new(&row("started", 1), Signals::new(), now), now)
    }

    #[test]
    fn own_knowledge_lasts_until_the_row_tells_something_new_and_a_moment_longer() {
        let (machine, now) = machine();
        let (stopped, started) = (row("stopped", 1), row("started", 2));
        assert_eq!(machine.running(&stopped, now), None);
        machine.believe(&stopped, true, now);
        let later = now + BELIEF_OUTLIVES_ROW;
        assert_eq!(machine.running(&stopped, later + BELIEF_OUTLIVES_ROW), Some(true));
        assert_eq!(machine.running(&started, now), Some(true));
        assert_eq!(machine.running(&started, later), None);
        machine.doubt();
        assert_eq!(machine.running(&stopped, now), None);
    }

    #[test]
    fn idleness_counts_from_the_last_request_or_from_the_start() {
        let (machine, now) = machine();
        let second = Duration::from_secs(1);
        assert_eq!(machine.idleness(&row("started", 1), now + second), (0, Duration::ZERO));
        assert_eq!(machine.idleness(&row("started", 1), now + second * 3), (0, second * 2));
        assert_eq!(machine.idleness(&row("started", 2), now + second * 4), (0, Duration::ZERO));
        let Admission::Granted(permit) = machine.admit(1, None) else { panic!("the gate is closed") };
        assert_eq!(machine.idleness(&row("started", 2), now).0, 1);
        drop(permit);
        assert_eq!(machine.idleness(&row("started", 2), now).0, 0);
    }

    #[test]
    fn a_wake_has_one_lead_until_its_outcome_is_known_or_the_lead_is_gone() {
        let (machine, _) = machine();
        let WakePart::Lead(outcome, _receiver) = machine.join_wake() else { panic!("nobody else wakes it") };
        assert!(matches!(machine.join_wake(), WakePart::Follow(_)));
        outcome.send_replace(Some(Ok(Woken { started: true })));
        let WakePart::Lead(outcome, _receiver) = machine.join_wake() else { panic!("the wake before is over") };
        drop(outcome);
        assert!(matches!(machine.join_wake(), WakePart::Lead(..)));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Enter(usize),
        Leave(usize),
        BeginStop,
        EndStop,
        Close(bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..3_usize).prop_map(Step::Enter),
            4 => (0..8_usize).prop_map(Step::Leave),
            1 => Just(Step::BeginStop),
            1 => Just(Step::EndStop),
            1 => any::<bool>().prop_map(Step::Close),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn nobody_enters_a_machine_that_stops_or_is_closed_and_no_limit_is_passed(steps in steps()) {
            const LIMIT: u32 = 3;
            let (machine, now) = machine();
            let mut inside: Vec<(usize, Permit)> = Vec::new();
            let (mut stopping, mut closed) = (false, false);
            for step in steps {
                match step {
                    Step::Enter(service) => match machine.admit(service, Some(LIMIT)) {
                        Admission::Granted(permit) => {
                            prop_assert!(!stopping && !closed && service < 2);
                            inside.push((service, permit));
                        }
                        Admission::AtHardLimit => {
                            let there = inside.iter().filter(|(index, _)| *index == service).count();
                            prop_assert!(service >= 2 || there == LIMIT as usize);
                        }
                        Admission::Stopping => prop_assert!(stopping),
                        Admission::Closed => prop_assert!(closed),
                    },
                    Step::Leave(index) if index < inside.len() => drop(inside.swap_remove(index)),
                    Step::Leave(_) => {}
                    Step::BeginStop => {
                        let began = machine.begin_stop();
                        prop_assert_eq!(began, !stopping && inside.is_empty());
                        stopping |= began;
                    }
                    Step::EndStop if stopping => {
                        machine.end_stop(&row("started", 1), true, now);
                        stopping = false;
                    }
                    Step::EndStop => {}
                    Step::Close(cordoned) => closed = cordoned,
                }
                let counted: Vec<u32> =
                    (0..2).map(|service| inside.iter().filter(|(index, _)| *index == service).count() as u32).collect();
                prop_assert_eq!(machine.close(closed), counted);
            }
        }
    }
}
