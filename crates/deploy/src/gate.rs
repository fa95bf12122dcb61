//! Watching a new machine until it has shown that it works, or has not. The judgement is
//! `rollout`'s; here is what it needs to remember between two looks.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_model::machine::CheckResult;
use atoll_model::service::CheckStatus;
use atoll_model::{AppName, MachineId, MachineState};
use atoll_rollout::gate::{Judgement, Observation, SeenCheck, judge};
use tokio::time::Instant;

use crate::world::{Sight, World};

/// What has been seen of one run of the machine.
#[derive(Default)]
struct Memory {
    boot_id: Option<String>,
    up_since: Option<Instant>,
    passed: BTreeSet<String>,
}

impl Memory {
    fn observe(&mut self, sight: Sight, now: Instant, waited: Duration) -> Observation {
        if sight.state != MachineState::Started || sight.boot_id != self.boot_id {
            *self = Self { boot_id: sight.boot_id, ..Self::default() };
        }
        if sight.state == MachineState::Started {
            self.up_since.get_or_insert(now);
        }
        let passing = sight.checks.iter().filter(|check| check.status == CheckStatus::Passing);
        self.passed.extend(passing.map(|check| check.name.clone()));
        let seen = |check: CheckResult| SeenCheck {
            passed_once: self.passed.contains(&check.name),
            name: check.name,
            output: check.output,
        };
        Observation {
            state: sight.state,
            up_for: self.up_since.map(|since| now.duration_since(since)),
            waited,
            exits: sight.exits,
            last_exit: sight.last_exit,
            ports: sight.ports,
            checks: sight.checks.into_iter().map(seen).collect(),
        }
    }
}

/// Returns when the machine works, or with the reason why it is refused. `says` is told what is
/// being waited for.
pub(crate) async fn wait(
    world: &dyn World,
    app: &AppName,
    machine: MachineId,
    timeout: Duration,
    look: Duration,
    says: &(dyn Fn(String) + Sync),
) -> Result<(), String> {
    let began = Instant::now();
    let mut memory = Memory::default();
    loop {
        let sight = world.observe(app, machine).await;
        let waited = began.elapsed();
        match sight {
            Ok(sight) => {
                // Nobody used it yet, so it was put to rest for being idle, perhaps while this
                // executor was away: that says nothing against it.
                let rests = sight.exits == 0 && sight.state.is_startable();
                let mut seen = memory.observe(sight, Instant::now(), waited);
                if rests {
                    // A refusal shows in the next look.
                    if let Err(error) = world.start(app, machine).await {
                        tracing::debug!(%machine, %error, "a resting machine cannot be started yet");
                    }
                    seen.state = MachineState::Starting;
                }
                match judge(&seen, timeout) {
                    Judgement::Passed => return Ok(()),
                    Judgement::Waiting(what) => says(format!("waiting for {what}")),
                    Judgement::Failed(failure) => return Err(failure.to_string()),
                }
            }
            Err(error) if !error.is_transient => return Err(error.reason),
            Err(error) if waited >= timeout => return Err(error.reason),
            Err(error) => says(format!("waiting: {}", error.reason)),
        }
        tokio::time::sleep(look).await;
    }
}
