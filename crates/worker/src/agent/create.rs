//! Creation: promise, seal, record, then hand over to the machine's task. Until the record is on
//! disk nothing of the machine exists, so a creation that fails leaves nothing.

use std::sync::Arc;

use atoll_model::guest::Guest;
use atoll_rpc::contract::{LaunchBundle, MachineView};
use atoll_signals::{STAGES, moment_us, with_causes};

use super::Agent;
use crate::calls::CreateMachine;
use crate::error::WorkerError;
use crate::lease::{self, Acquire};
use crate::machine::step::{Effect, Phase, Step};
use crate::machine::{self, Origin, Sealed, events};
use crate::store::{DurableState, Write};

/// Whether the bundle can run at all, and its size.
pub(super) fn judge(bundle: &LaunchBundle) -> Result<Guest, WorkerError> {
    let invalid = |error: &dyn std::error::Error| WorkerError::Invalid(with_causes(error));
    bundle.config.validate().map_err(|error| invalid(&error))?;
    bundle.config.resolved_guest().map_err(|error| invalid(&error))
}

impl Agent {
    /// Records the machine, then prepares and launches it in the background. The same machine and
    /// version again is answered with what is there.
    pub async fn create(&self, create: CreateMachine) -> Result<MachineView, WorkerError> {
        let CreateMachine { bundle, lease_ttl_seconds, lease_owner } = create;
        let machine = bundle.machine;
        tracing::debug!(target: STAGES, %machine, at_us = moment_us(), "asked");
        if let Ok(handle) = self.handle(machine) {
            let view = handle.snapshot().view.clone();
            return if view.version == bundle.version {
                Ok(view)
            } else {
                Err(WorkerError::Conflict(format!("machine {machine} exists already with another version")))
            };
        }
        let guest = judge(&bundle)?;
        let sealed = self.seal(&bundle)?;
        let registry = &self.context.registry;
        let slot = registry.reserve(machine, &guest)?;
        let acquire = Acquire { ttl_seconds: lease_ttl_seconds, owner: lease_owner, ..Acquire::default() };
        let recorded = self.record_new(bundle, sealed, slot, (lease_ttl_seconds > 0).then_some(acquire)).await;
        match recorded {
            Ok(origin) => {
                let (handle, first) = machine::spawn(self.context.clone(), origin);
                registry.insert(handle);
                Ok(first.view.clone())
            }
            Err(error) => {
                registry.abandon(machine);
                Err(error)
            }
        }
    }

    async fn record_new(
        &self,
        bundle: LaunchBundle,
        sealed: Vec<u8>,
        slot: u32,
        acquire: Option<Acquire>,
    ) -> Result<Origin, WorkerError> {
        let context = &self.context;
        let machine = bundle.machine;
        let admitted = context.deps.networks.admit(bundle.network).await;
        admitted.map_err(|error| WorkerError::Precondition(with_causes(&error)))?;

        let now = context.now_ms();
        let lease = match acquire {
            Some(ask) => Some(lease::acquire(machine, None, &ask, bundle.version, now, context.mint.nonce())?),
            None => None,
        };
        let phase = Phase::Preparing { start: !bundle.skip_launch, replacing: false };
        let state = DurableState {
            phase,
            cordoned: bundle.cordoned,
            lease,
            slot,
            updated_at_ms: now,
            changed_at_ms: now,
            boot_id: None,
            restarts: Vec::new(),
            restart_count: 0,
            last_exit: None,
            checks: Vec::new(),
            ready: Vec::new(),
            destroyed_at_ms: None,
        };
        let event = atoll_model::machine::Event {
            id: context.mint.event(now),
            event_type: "launch".into(),
            status: "created".into(),
            source: events::BY_USER.into(),
            timestamp: now,
            request: None,
        };
        let bundle = Sealed::without_secrets(bundle);
        let keep = context.config.knobs.events_kept;
        let writes = vec![
            Write::Bundle { machine, bundle: Box::new(bundle.clone()), sealed: sealed.clone() },
            Write::State { machine, state: Box::new(state.clone()) },
            Write::Event { machine, event: Box::new(event.clone()), keep },
        ];
        let commit = context.store.write(writes).await;
        commit.wait().await.map_err(|source| WorkerError::NotRecorded { machine, source })?;
        Ok(Origin {
            state,
            sealed: Sealed { bundle: Arc::new(bundle), sealed: sealed.into() },
            events: vec![event],
            versions: Vec::new(),
            running: None,
            exit: None,
            first: Step { phase, effects: vec![Effect::Prepare] },
        })
    }
}
