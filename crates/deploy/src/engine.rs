//! Finds deploys that nobody executes and executes them: new ones, and those that a dead executor
//! left, perhaps an earlier life of this process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_store::{Deploy, ErrorKind, Store, StoreError};
use tokio::sync::{Notify, watch};
use tokio::task::{self, JoinSet};

use crate::journal::{Claim, Journal};
use crate::run::Run;
use crate::timing::Timing;
use crate::world::World;

/// Deploys of different apps that are executed at once.
const MAX_AT_ONCE: usize = 64;

pub(crate) struct Engine {
    pub store: Store,
    pub world: Arc<dyn World>,
    /// Names this process among those over the same records, through restarts.
    pub executor: String,
    pub now_ms: fn() -> u64,
    pub timing: Timing,
    wake: Notify,
    /// Counts what this process wrote, for those who follow a deploy.
    written: watch::Sender<u64>,
}

impl Engine {
    pub fn new(store: Store, world: Arc<dyn World>, executor: String, now_ms: fn() -> u64, timing: Timing) -> Self {
        Self { store, world, executor, now_ms, timing, wake: Notify::new(), written: watch::Sender::new(0) }
    }

    /// There is a new deploy.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub fn note_written(&self) {
        self.written.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// Runs until it is dropped, which stops everything at once; the records say how to go on.
    pub async fn run_forever(self: Arc<Self>) {
        let mut tasks: JoinSet<()> = JoinSet::new();
        let mut held: HashMap<task::Id, String> = HashMap::new();
        loop {
            match self.waiting().await {
                Ok(deploys) => {
                    for deploy in deploys {
                        if held.len() >= MAX_AT_ONCE || held.values().any(|release| *release == deploy.release) {
                            continue;
                        }
                        if let Some(claim) = self.claim(&deploy).await {
                            let execution = self.clone().execute(claim);
                            held.insert(tasks.spawn(execution).id(), deploy.release);
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, ?error, "cannot look for deploys"),
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(self.timing.search) => {}
                Some(ended) = tasks.join_next_with_id() => {
                    let task = match ended {
                        Ok((task, ())) => task,
                        Err(error) => {
                            tracing::error!(%error, "the execution of a deploy ended abnormally");
                            error.id()
                        }
                    };
                    held.remove(&task);
                }
            }
        }
    }

    /// Deploys that this executor may take: free ones, and its own from an earlier life.
    async fn waiting(&self) -> Result<Vec<Deploy>, StoreError> {
        let now = (self.now_ms)();
        // Leases of living executors end before this.
        let horizon = now + 2 * u64::try_from(self.timing.lease.as_millis()).unwrap_or(u64::MAX / 4);
        let limit = MAX_AT_ONCE as u32 * 2;
        let open = self.store.read(|tx| async move { tx.deploy_orphans(horizon, limit).await }).await?;
        let may_take = |deploy: &Deploy| {
            deploy.leased_until_ms <= now || deploy.executor.as_deref() == Some(self.executor.as_str())
        };
        Ok(open.into_iter().filter(may_take).collect())
    }

    async fn claim(&self, deploy: &Deploy) -> Option<Claim> {
        let release = &deploy.release;
        match Journal::claim(&self.store, release, &self.executor, self.now_ms, self.timing.lease).await {
            Ok(claim) => Some(claim),
            // Another release of the app is running, or another executor was faster.
            Err(error) if error.kind() == ErrorKind::Conflict => None,
            Err(error) => {
                tracing::warn!(release, %error, ?error, "cannot take up a deploy");
                None
            }
        }
    }

    async fn execute(self: Arc<Self>, claim: Claim) {
        let (app, version) = (claim.release.app.clone(), claim.release.version);
        if let Err(error) = Run::carry_out(&self, claim).await {
            tracing::warn!(%app, version, %error, ?error, "a deploy is interrupted; it is taken up again later");
            tokio::time::sleep(self.timing.setback).await;
        }
        self.note_written();
    }
}

/// How long a follower waits without being told of a change: another process may be the writer.
pub(crate) const FOLLOW_EVERY: Duration = Duration::from_millis(200);
