//! One move from its beginning to its end, by this executor while it holds the move's lease.

use std::sync::Arc;

use atoll_model::{MachineId, MachineState};
use atoll_rollout::Effect;
use atoll_rollout::gate::DEFAULT_WAIT_TIMEOUT;
use atoll_rollout::moving::{Arrival, arrival, departure};
use atoll_store::{ErrorKind, MachinePhase, MachineRecord, Move, StoreError};
use tokio::time::{MissedTickBehavior, interval};

use super::{Mover, MoverError};
use crate::perform::{Failure, Scene};

/// How an attempt ended.
enum Ending {
    /// The machine lives where it should, or nowhere any more.
    Over,
    /// Taken back; another attempt, perhaps to another node, may succeed later.
    Failed { reason: String, retry_now: bool },
    /// Everything stays as it is until it can go on.
    Interrupted { reason: String },
}

/// Running, or about to: a machine of which nothing was heard yet was to be started.
fn is_running(state: MachineState) -> bool {
    use MachineState::*;
    matches!(state, Created | Starting | Started | Restarting | Replacing)
}

impl Mover {
    /// Performs a move as long as its lease is ours.
    pub(super) async fn perform(self: Arc<Self>, it: Move) {
        // Polled side by side: neither may wait for the records while the other holds them.
        let ended = tokio::select! {
            ended = self.attempt(&it) => ended,
            () = self.lease_lost(it.machine) => {
                tracing::warn!(machine = %it.machine, "somebody else performs this move now");
                return;
            }
        };
        let ended = match ended {
            Ok(ending) => self.conclude(&it, ending).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::warn!(machine = %it.machine, %error, ?error, "a move is interrupted; it is taken up again later");
            tokio::time::sleep(self.engine.timing.setback).await;
        }
    }

    /// Prolongs a move's lease; resolves when it is somebody else's.
    async fn lease_lost(&self, machine: MachineId) {
        let mut renewal = interval(self.engine.timing.renewal);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            renewal.tick().await;
            match self.lease(machine).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => tracing::warn!(%machine, %error, "a move's lease was not prolonged"),
            }
        }
    }

    async fn attempt(&self, it: &Move) -> Result<Ending, MoverError> {
        let Some(old) = self.record(it.machine).await? else { return Ok(Ending::Over) };
        match old.phase {
            // Its owner destroyed it, or an earlier attempt came so far.
            MachinePhase::Destroying | MachinePhase::Destroyed => return Ok(Ending::Over),
            // The node it was to leave, or the one it was to arrive at, is gone.
            MachinePhase::Lost => {
                if !it.is_remake() {
                    self.leave(it, it.successor).await;
                }
                return Ok(Ending::Failed { reason: "its node was lost meanwhile".into(), retry_now: true });
            }
            MachinePhase::Intended | MachinePhase::Placed => {}
        }
        let runs = match self.runs(it, &old).await {
            Ok(runs) => runs,
            Err(reason) => return Ok(Ending::Interrupted { reason }),
        };
        let plan = Arrival { machine: it.machine, successor: it.successor, node: it.node.clone(), runs };
        for effect in arrival(&plan) {
            let Err(failure) = self.step(it, &effect).await else { continue };
            return Ok(self.not_arrived(it, &effect, failure).await);
        }
        if it.is_remake() {
            return Ok(Ending::Over);
        }
        for effect in departure(it.machine) {
            match self.step(it, &effect).await {
                Err(failure) if effect.is_essential() => return Ok(Ending::Interrupted { reason: failure.reason }),
                // It is recorded as going, and ends when its server is heard.
                Err(failure) => tracing::info!(%effect, failure.reason, "a step of a move was not completed"),
                Ok(()) => {}
            }
        }
        Ok(Ending::Over)
    }

    /// Whether the machine runs, and shall where it arrives.
    async fn runs(&self, it: &Move, old: &MachineRecord) -> Result<bool, String> {
        if it.is_remake() {
            return Ok(is_running(old.state));
        }
        match self.engine.world.observe(&it.app, it.machine).await {
            Ok(sight) => Ok(is_running(sight.state)),
            Err(error) => Err(error.reason),
        }
    }

    async fn not_arrived(&self, it: &Move, effect: &Effect, failure: Failure) -> Ending {
        let reason = format!("{effect}: {}", failure.reason);
        match (it.is_remake(), effect) {
            // Whether the new node has it is unknown, so no other may get it.
            (true, Effect::Copy { .. }) if failure.is_transient => Ending::Interrupted { reason },
            (true, Effect::Copy { .. }) => Ending::Failed { reason, retry_now: false },
            // It is there. That it does not work is its own fault, as it was before.
            (true, _) => {
                tracing::info!(machine = %it.machine, reason, "a machine made again does not work");
                Ending::Over
            }
            (false, _) => {
                self.leave(it, it.successor).await;
                Ending::Failed { reason, retry_now: false }
            }
        }
    }

    /// Takes a machine away as well as possible; what cannot be done now is recorded as going.
    async fn leave(&self, it: &Move, machine: MachineId) {
        for effect in departure(machine) {
            if let Err(failure) = self.step(it, &effect).await {
                tracing::info!(%effect, failure.reason, "a step back from a move was not completed");
            }
        }
    }

    async fn step(&self, it: &Move, effect: &Effect) -> Result<(), Failure> {
        let engine = &self.engine;
        let scene = Scene {
            world: &*engine.world,
            store: &engine.store,
            app: &it.app,
            gate_timeout: DEFAULT_WAIT_TIMEOUT,
            timing: &engine.timing,
            patience: engine.timing.patience,
            // A move takes machines as they are: no release has a say.
            primary: None,
            target: 0,
        };
        scene.perform(effect, &|text| tracing::debug!(%effect, text, "a machine moves")).await
    }

    async fn conclude(&self, it: &Move, ending: Ending) -> Result<(), MoverError> {
        let (store, machine, now) = (&self.engine.store, it.machine, (self.engine.now_ms)());
        match ending {
            Ending::Over => {
                store.write(|tx| async move { tx.move_end(machine).await }).await?;
                tracing::info!(%machine, app = %it.app, node = %it.node, "a machine has moved");
            }
            Ending::Failed { reason, retry_now } => {
                let pause =
                    if retry_now { 0 } else { u64::try_from(self.engine.timing.retry_move.as_millis()).unwrap_or(0) };
                tracing::warn!(%machine, app = %it.app, node = %it.node, reason, "a machine could not be moved");
                let reason = reason.as_str();
                store.write(|tx| async move { tx.move_fail(machine, reason, now + pause, now).await }).await?;
            }
            Ending::Interrupted { reason } => {
                tracing::info!(%machine, app = %it.app, reason, "a move waits");
                tokio::time::sleep(self.engine.timing.setback).await;
            }
        }
        Ok(())
    }

    async fn record(&self, machine: MachineId) -> Result<Option<MachineRecord>, StoreError> {
        match self.engine.store.read(|tx| async move { tx.machine_fetch(machine).await }).await {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
