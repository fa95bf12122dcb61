//! Waiting: for a state (`wait`) and for a machine that answers requests (`wake`). Both read the
//! machine's snapshot, so they are level-triggered: what is so already is answered at once.

use std::time::Duration;

use tokio::time::timeout;

use atoll_model::{MachineId, MachineState};

use super::Agent;
use crate::calls::{WaitFor, Waited};
use crate::error::WorkerError;
use crate::machine::{Ask, Snapshot, events};

/// Longest time a caller may wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);

impl Agent {
    /// Returns when the machine reaches one of the states.
    pub async fn wait(&self, machine: MachineId, wait: WaitFor) -> Result<Waited, WorkerError> {
        let handle = self.handle(machine)?;
        let mut snapshots = handle.watch();
        let reached = async {
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(result) = judge(&snapshot, &wait) {
                    return result;
                }
                if snapshots.changed().await.is_err() {
                    return Err(WorkerError::Unavailable { machine, reason: "the agent is ending" });
                }
            }
        };
        match timeout(wait.timeout.min(LONGEST_WAIT), reached).await {
            Ok(result) => result,
            Err(_) => Err(missed(&wait, handle.snapshot().view.state.as_str())),
        }
    }

    /// Starts the machine if it is not running; returns when `port` accepts, and says whether this
    /// call found it down. Many at once start it once.
    pub async fn wake(&self, machine: MachineId, port: u16, limit: Duration) -> Result<bool, WorkerError> {
        let handle = self.handle(machine)?;
        let mut snapshots = handle.watch();
        let failures_before = handle.snapshot().failures;
        let accepts =
            |snapshot: &Snapshot| snapshot.phase.is_up() && snapshot.health.accepts(&snapshot.view.config, port);
        if accepts(&handle.snapshot()) {
            return Ok(false);
        }
        let awake = async {
            let mut found_down = false;
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                if accepts(&snapshot) {
                    return Ok(found_down);
                }
                if snapshot.failures > failures_before {
                    return Err(WorkerError::Precondition(
                        snapshot.last_failure.clone().unwrap_or_else(|| "the machine did not start".into()),
                    ));
                }
                let state = snapshot.view.state;
                let ending = matches!(state, MachineState::Stopping | MachineState::Suspending);
                if state.is_startable() || ending || !state.is_active() || state == MachineState::Failed {
                    found_down = true;
                    handle.ask(Ask::Wake, "", events::BY_NODE).await?;
                    // A frozen machine that is thawed answers at once, but only its snapshot says so.
                    if ending && snapshots.borrow().view.state == state {
                        snapshots.changed().await.ok();
                    }
                    continue;
                }
                if snapshots.changed().await.is_err() {
                    return Err(WorkerError::Unavailable { machine, reason: "the agent is ending" });
                }
            }
        };
        match timeout(limit.min(LONGEST_WAIT), awake).await {
            Ok(result) => result,
            Err(_) => {
                Err(WorkerError::TimedOut(format!("machine {machine} did not accept on port {port} in {limit:?}")))
            }
        }
    }
}

fn missed(wait: &WaitFor, currently: &str) -> WorkerError {
    let mut wanted: Vec<_> = wait.states.iter().map(|state| state.as_str()).collect();
    if wait.settled {
        wanted.push("settled");
    }
    WorkerError::TimedOut(format!(
        "machine failed to reach desired state, {}, currently {currently}",
        wanted.join(" or ")
    ))
}

/// The answer as of now, if there is one.
fn judge(snapshot: &Snapshot, wait: &WaitFor) -> Option<Result<Waited, WorkerError>> {
    let view = &snapshot.view;
    if let Some(version) = wait.version.filter(|version| *version != view.version) {
        // A version that was there before never comes back; one that is not known may come.
        let replaced = view.earlier_versions.iter().any(|earlier| earlier.version == version);
        return replaced.then(|| Err(missed(wait, "replaced")));
    }
    let waited = |state, event| Some(Ok(Waited { state, version: view.version, event }));
    let newest = view.events.first().map(|event| event.id);
    let wanted = |state: MachineState| wait.states.contains(&state) || (wait.settled && !state.is_transient());
    match wait.from_event {
        None => wanted(view.state).then(|| waited(view.state, newest)).flatten(),
        Some(from) => {
            let passed = view.events.iter().filter(|event| event.id > from).find_map(|event| {
                wait.states.iter().find(|state| state.as_str() == event.status).map(|s| (*s, event.id))
            });
            match passed {
                Some((state, event)) => waited(state, Some(event)),
                // States may be reached without an event of that name.
                None if wanted(view.state) && newest.is_some_and(|newest| newest > from) => waited(view.state, newest),
                None => None,
            }
        }
    }
}
