//! The agent's start: read the records, look at reality, join both machine by machine, and have
//! every row published before anybody may ask.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use atoll_driver::Adopted;
use atoll_model::MachineState;
use atoll_signals::with_causes;

use super::{Agent, Registry};
use crate::capacity::Capacity;
use crate::clock::Mint;
use crate::config::WorkerConfig;
use crate::error::StartError;
use crate::machine::effects::network_plan;
use crate::machine::restart::verdict;
use crate::machine::step::{Found, Phase, recover};
use crate::machine::{self, Context, Origin, Sealed};
use crate::seams::{Deps, ImageProvider};
use crate::store::{self, Recorded};

/// Begins agents.
pub struct Worker;

impl Worker {
    /// Opens the records in the state folder, adopts every machine that is still there, finishes or
    /// unwinds what was under way, and takes calls from then on.
    pub async fn start(config: WorkerConfig, deps: Deps) -> Result<Agent, StartError> {
        let machines = config.state_dir.join("machines");
        tokio::fs::create_dir_all(&machines)
            .await
            .map_err(|source| StartError::Folder { path: machines.clone(), source })?;
        let path = config.state_dir.join("worker.db");
        let (store, recorded) =
            store::open(&path, config.knobs.store_max_bytes, deps.steps.clone()).await.map_err(StartError::Store)?;

        let capacity = Capacity {
            cpus: config.cpus,
            memory_mb: config.memory_mb,
            memory_overcommit: config.knobs.memory_overcommit,
        };
        let registry = Arc::new(Registry::new(capacity, deps.networks.capacity(), config.knobs.max_machines));
        let mint = Mint::new(config.seed);
        let context = Arc::new(Context { mint, store, registry, deps, config });

        let all_readable = recorded.iter().all(Result::is_ok);
        let recorded: Vec<Recorded> = recorded.into_iter().filter_map(readable).collect();
        let live = |recorded: &&Recorded| recorded.state.phase != Phase::Removed;
        let plans: Vec<_> =
            recorded.iter().filter(live).map(|recorded| network_plan(&recorded.bundle, recorded.state.slot)).collect();
        context.deps.networks.reconcile(&plans).await.map_err(StartError::Network)?;

        let parallel = context.config.knobs.parallel_recoveries.max(1);
        stream::iter(recorded).for_each_concurrent(parallel, |recorded| adopt(context.clone(), recorded)).await;
        let agent = Agent { context };
        if all_readable {
            tokio::spawn(keep_pins(agent.context.registry.clone(), agent.context.deps.images.clone()));
        } else {
            tracing::warn!("no image is removed from this server while it is not known what a machine needs");
        }
        Ok(agent)
    }
}

/// One record that cannot be read must not keep the others down; its machine is left alone.
fn readable(recorded: Result<Recorded, store::StoreError>) -> Option<Recorded> {
    recorded.inspect_err(|error| tracing::error!(error = with_causes(error), "a machine's record is left out")).ok()
}

async fn adopt(context: Arc<Context>, recorded: Recorded) {
    let Recorded { state, bundle, sealed, events, versions, open_intents } = recorded;
    let id = bundle.machine;
    if !open_intents.is_empty() {
        tracing::info!(machine = %id, unfinished = ?open_intents, phase = ?state.phase, "taking up what was under way");
    }
    let mut running = None;
    let mut exit = None;
    let found = if state.phase == Phase::Removed {
        Found::Nothing
    } else {
        match context.deps.driver.adopt(id, &context.machine_dir(id)).await {
            Ok(Adopted::Running(machine)) => {
                // Pausing and resuming may be repeated, so the record decides what is true of it.
                let paused = matches!(state.phase, Phase::Suspended | Phase::Resuming);
                running = Some(machine);
                Found::Running { paused }
            }
            Ok(Adopted::Exited(ended)) => {
                let verdict = verdict(&bundle.config, ended.code, &state.restarts, context.now_ms());
                exit = Some(ended);
                Found::Exited { verdict }
            }
            Ok(Adopted::Nothing) => Found::Nothing,
            Err(error) => {
                // What cannot be looked at is cleaned by force before its next start.
                tracing::warn!(machine = %id, error = with_causes(&error), "the machine cannot be adopted");
                Found::Nothing
            }
        }
    };
    let first = recover(state.phase, found);
    if first.phase != Phase::Removed
        && let Ok(guest) = bundle.config.resolved_guest()
    {
        context.registry.restore(id, &guest, state.slot);
    }
    let sealed = Sealed { bundle: Arc::new(bundle), sealed: sealed.into() };
    let origin = Origin { state, sealed, events, versions, running, exit, first };
    let registry = context.registry.clone();
    let (handle, _) = machine::spawn(context, origin);
    registry.insert(handle);
}

/// Tells the image store which digests machines need, whenever that may have changed.
async fn keep_pins(registry: Arc<Registry>, images: Arc<dyn ImageProvider>) {
    while !registry.is_closed() {
        let machines = registry.all();
        let snapshots = machines.iter().map(|handle| handle.snapshot());
        let mut digests: Vec<String> = snapshots
            .filter(|snapshot| snapshot.view.state != MachineState::Destroyed)
            .map(|snapshot| snapshot.view.image.digest.clone())
            .collect();
        digests.sort();
        digests.dedup();
        images.pin(digests);
        registry.pins_changing().await;
    }
}
