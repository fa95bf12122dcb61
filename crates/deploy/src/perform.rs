//! One action of a plan, from its beginning to its end, with attempts repeated while its server does
//! not answer.

use std::time::Duration;

use atoll_model::{AppName, MachineId, RegionCode};
use atoll_rollout::Effect;
use atoll_signals::with_causes;
use atoll_store::{Release, Store, StoreError};
use tokio::time::Instant;

use crate::gate;
use crate::timing::Timing;
use crate::world::{Setback, World};

/// Lines of a failing machine's log that its user gets to see.
const LAST_LINES: u32 = 20;
/// They must not hold up the way back.
const LINES_TIMEOUT: Duration = Duration::from_secs(3);

/// Environment variable of machines.
const PRIMARY_REGION: &str = "PRIMARY_REGION";

/// How an action failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub reason: String,
    /// The end of the machine's log, where the machine is to blame.
    pub log: Vec<String>,
    /// Its server did not answer in all the time it was given.
    pub is_transient: bool,
}

/// What all actions of a deploy have in common.
pub(crate) struct Scene<'a> {
    pub world: &'a dyn World,
    pub store: &'a Store,
    pub app: &'a AppName,
    /// How long a new machine may take.
    pub gate_timeout: Duration,
    pub timing: &'a Timing,
    /// How long attempts are repeated while a server does not answer.
    pub patience: Duration,
    /// The app's primary region as the release `target` wants it.
    pub primary: Option<RegionCode>,
    pub target: u64,
}

impl Scene<'_> {
    /// `says` is told what is being waited for.
    pub async fn perform(&self, effect: &Effect, says: &(dyn Fn(String) + Sync)) -> Result<(), Failure> {
        let machine = effect.machine();
        if !matches!(effect, Effect::Gate { .. }) {
            return self.attempt(effect, says).await.map_err(|error| Failure {
                reason: error.reason,
                log: Vec::new(),
                is_transient: error.is_transient,
            });
        }
        match gate::wait(self.world, self.app, machine, self.gate_timeout, self.timing.look, says).await {
            Ok(()) => Ok(()),
            Err(reason) => Err(Failure { reason, log: self.last_lines(machine).await, is_transient: false }),
        }
    }

    async fn attempt(&self, effect: &Effect, says: &(dyn Fn(String) + Sync)) -> Result<(), Setback> {
        let began = Instant::now();
        let mut pause = self.timing.first_pause;
        loop {
            match self.attempt_once(effect).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient && began.elapsed() < self.patience => {
                    says(format!("trying again: {}", error.reason));
                }
                Err(error) => {
                    tracing::info!(app = %self.app, %effect, error = with_causes(&error), "a step of a deploy failed");
                    return Err(error);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.timing.longest_pause);
        }
    }

    async fn attempt_once(&self, effect: &Effect) -> Result<(), Setback> {
        match effect {
            Effect::Barrier { machine } => self.world.barrier(self.app, *machine, self.timing.barrier).await,
            Effect::Drain { machine } => self.world.drain(self.app, *machine).await,
            Effect::Prepare { node, release, .. } => self.world.prepare(node, &self.release(*release).await?).await,
            Effect::Create { release, .. } | Effect::Update { release, .. } => {
                let release = self.release(*release).await?;
                self.world.apply(self.app, effect, Some(&release)).await
            }
            _ => self.world.apply(self.app, effect, None).await,
        }
    }

    async fn release(&self, version: u64) -> Result<Release, StoreError> {
        let mut release =
            self.store.read(|tx| async move { tx.release_fetch_version(self.app, version).await }).await?;
        // The records of the app name the region only when the release is in place.
        if let Some(primary) = self.primary.filter(|_| version == self.target) {
            for config in release.content.machine_configs.values_mut() {
                config.env.entry(PRIMARY_REGION.to_owned()).or_insert_with(|| primary.to_string());
            }
        }
        Ok(release)
    }

    async fn last_lines(&self, machine: MachineId) -> Vec<String> {
        match tokio::time::timeout(LINES_TIMEOUT, self.world.last_lines(self.app, machine, LAST_LINES)).await {
            Ok(Ok(lines)) => lines,
            Ok(Err(error)) => vec![format!("(its log cannot be read: {error})")],
            Err(_) => vec!["(its log cannot be read: its server does not answer)".to_owned()],
        }
    }
}
