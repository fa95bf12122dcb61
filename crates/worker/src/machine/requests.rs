//! How a machine's task answers callers: leases and legality first, then the transition.

use std::sync::Arc;

use atoll_model::config::STOP_SIGNALS;
use atoll_model::machine::{Call, Legality, legality};
use atoll_model::policy::NetworkLimits;
use atoll_model::{MachineState, MachineVersion};
use atoll_rpc::contract::{EarlierVersion, LaunchBundle};

use super::effects::{self, seal_context};
use super::step::{Cause, Input, Phase};
use super::task::{Durability, Task};
use super::{Answer, Ask, Envelope, Sealed, events};
use crate::calls::{LeaseAsk, SetMetadata, StopOptions, signal_number};
use crate::error::WorkerError;
use crate::lease;
use crate::store::{StoreError, Write};

type Reply = Result<Answer, WorkerError>;

impl Task {
    pub(super) async fn serve(&mut self, envelope: Envelope) {
        let Envelope { ask, lease_nonce, source, reply } = envelope;
        // A caller that is gone has no use for the work of its request.
        if reply.is_closed() && !matches!(ask, Ask::Usage(_)) {
            return;
        }
        let answer = self.answer(ask, &lease_nonce, &source).await;
        // The caller may have gone away meanwhile; what was done is done.
        let _ = reply.send(answer);
    }

    async fn answer(&mut self, ask: Ask, nonce: &str, source: &str) -> Reply {
        match ask {
            Ask::Usage(usage) => {
                if self.usage != usage {
                    let closed_before = std::mem::replace(&mut self.usage, usage).closed;
                    // Nobody reads the load of a machine here, but whether it has drained.
                    if closed_before || self.usage.closed { self.publish() } else { self.publish_row() }
                }
                Ok(Answer::Done)
            }
            Ask::Lease(ask) => self.lease(ask).await,
            Ask::Metadata(change) => self.set_metadata(change).await,
            Ask::Limits(limits) => self.set_limits(limits).await,
            Ask::Process => self.process(),
            Ask::Wake => self.wake(nonce).await,
            change => {
                lease::permits(self.id, self.state.lease.as_ref(), nonce, self.context.now_ms())?;
                self.change(change, source).await
            }
        }
    }

    async fn change(&mut self, ask: Ask, source: &str) -> Reply {
        match ask {
            Ask::Start => self.call(Call::Start, Input::Start { cause: Cause::Request }, source).await,
            Ask::Stop(options) => {
                self.take_stop_options(options)?;
                self.call(Call::Stop, Input::Stop, source).await
            }
            Ask::Suspend => self.call(Call::Suspend, Input::Suspend, source).await,
            Ask::Idle { version, suspend } => self.idle(version, suspend).await,
            Ask::Restart { options, force } => {
                self.take_stop_options(options)?;
                self.call(Call::Restart, Input::Restart { force }, source).await
            }
            Ask::Destroy { force } => self.call(Call::Destroy { force }, Input::Destroy, source).await,
            Ask::Update { bundle, sealed, expected_version } => {
                self.update(*bundle, sealed, expected_version, source).await
            }
            Ask::Cordon(cordoned) => self.cordon(cordoned).await,
            // The rest was answered before the lease was asked.
            Ask::Usage(_) | Ask::Lease(_) | Ask::Metadata(_) | Ask::Limits(_) | Ask::Process | Ask::Wake => {
                Ok(Answer::Done)
            }
        }
    }

    /// Judges a call and performs its transition, recorded before it is answered.
    async fn call(&mut self, call: Call, input: Input, source: &str) -> Reply {
        let previous = self.legal(call)?;
        let Some(previous) = previous else { return Ok(Answer::Changed(self.state.phase.state())) };
        self.advance_with(input, None, source, Durability::Awaited)
            .await
            .map_err(|source| self.not_recorded(source))?;
        Ok(Answer::Changed(previous))
    }

    /// The present state if the call may go ahead, `None` if there is nothing to do.
    fn legal(&self, call: Call) -> Result<Option<MachineState>, WorkerError> {
        let state = self.state.phase.state();
        // A machine that waits for its restart is not active: it may be started or removed.
        if self.state.phase == Phase::BackingOff && matches!(call, Call::Start | Call::Destroy { .. }) {
            return Ok(Some(state));
        }
        match legality(call, state) {
            Legality::Allowed => Ok(Some(state)),
            Legality::AlreadyThere => Ok(None),
            Legality::Refused(text) => Err(WorkerError::Precondition(text)),
            Legality::Conflict(text) => Err(WorkerError::Conflict(text)),
        }
    }

    fn take_stop_options(&mut self, options: StopOptions) -> Result<(), WorkerError> {
        if let Some(name) = options.signal.as_deref().filter(|name| !name.is_empty())
            && signal_number(name).is_none()
        {
            return Err(WorkerError::Invalid(format!("signal {name:?} is none of {}", STOP_SIGNALS.join(", "))));
        }
        self.stop = options;
        Ok(())
    }

    async fn wake(&mut self, nonce: &str) -> Reply {
        use MachineState::{Created, Restarting, Started, Starting};
        let state = self.state.phase.state();
        if matches!(state, Started | Starting | Restarting | MachineState::Replacing) {
            return Ok(Answer::Changed(state));
        }
        lease::permits(self.id, self.state.lease.as_ref(), nonce, self.context.now_ms())?;
        let ending = matches!(state, MachineState::Stopping | MachineState::Suspending);
        if !state.is_startable() && !ending && state != Created {
            return Err(WorkerError::Precondition(format!("unable to start machine from current state: '{state}'")));
        }
        let input = Input::Start { cause: Cause::Wake };
        self.advance_with(input, None, events::BY_NODE, Durability::Later)
            .await
            .map_err(|source| self.not_recorded(source))?;
        Ok(Answer::Changed(state))
    }

    async fn idle(&mut self, version: MachineVersion, suspend: bool) -> Reply {
        if version != self.sealed.bundle.version {
            return Err(WorkerError::Precondition(format!("machine version {version} is not the current one")));
        }
        self.stop = StopOptions::default();
        if suspend {
            self.call(Call::Suspend, Input::Suspend, events::BY_NODE).await
        } else {
            self.call(Call::Stop, Input::Stop, events::BY_NODE).await
        }
    }

    async fn update(
        &mut self,
        bundle: LaunchBundle,
        sealed: Vec<u8>,
        expected: Option<MachineVersion>,
        source: &str,
    ) -> Reply {
        let current = self.sealed.bundle.clone();
        // A repeated call after a lost reply.
        if bundle.version == current.version {
            return Ok(Answer::Updated(Box::new(self.view())));
        }
        if let Some(expected) = expected.filter(|expected| *expected != current.version) {
            return Err(WorkerError::Conflict(format!(
                "aborted: machine update failed due to concurrent update: current version is {}, not {expected}",
                current.version
            )));
        }
        self.legal(Call::Update)?;
        let skip_launch = bundle.skip_launch;
        let earlier = EarlierVersion { version: current.version, config: current.config.clone() };
        let keep = self.context.config.knobs.versions_kept;
        let old = (self.sealed.clone(), self.versions.clone(), self.state.clone());
        self.versions.insert(0, earlier.clone());
        self.versions.truncate(keep);
        self.state.cordoned |= bundle.cordoned;
        self.state.restarts.clear();
        self.state.restart_count = 0;
        self.state.updated_at_ms = self.context.now_ms();
        self.stop = StopOptions::default();
        let bundle = LaunchBundle { created_at_ms: current.created_at_ms, ..bundle };
        self.sealed = Sealed { bundle: Arc::new(bundle.clone()), sealed: sealed.clone().into() };
        let writes = vec![
            Write::Bundle { machine: self.id, bundle: Box::new(bundle), sealed },
            Write::Superseded { machine: self.id, version: Box::new(earlier), keep },
        ];
        let input = Input::Update { skip_launch };
        let done = self.advance_and_write(input, None, source, Durability::Awaited, writes).await;
        if let Err(error) = done {
            (self.sealed, self.versions, self.state) = old;
            return Err(self.not_recorded(error));
        }
        self.context.registry.pins_changed();
        Ok(Answer::Updated(Box::new(self.view())))
    }

    async fn cordon(&mut self, cordoned: bool) -> Reply {
        let previous = self.state.phase.state();
        if self.state.phase.state().is_active() && self.state.cordoned != cordoned {
            let before = self.state.clone();
            self.state.cordoned = cordoned;
            // What the edge said of an earlier cordon says nothing of this one.
            self.usage.closed = false;
            self.state.updated_at_ms = self.context.now_ms();
            self.recorded_or(before).await?;
            self.publish();
        }
        Ok(Answer::Changed(previous))
    }

    fn process(&mut self) -> Reply {
        let running = self.usable()?;
        Ok(Answer::Process(running, self.sealed.clone(), self.state.slot))
    }

    fn usable(&self) -> Result<Arc<dyn atoll_driver::Running>, WorkerError> {
        self.legal(Call::UseProcess)?;
        let state = self.state.phase.state();
        self.running
            .clone()
            .ok_or_else(|| WorkerError::Precondition(format!("unable to reach machine from current state: '{state}'")))
    }

    async fn lease(&mut self, ask: LeaseAsk) -> Reply {
        let now = self.context.now_ms();
        let current = lease::live(self.state.lease.as_ref(), now).cloned();
        match ask {
            LeaseAsk::Get => current.map(Answer::Lease).ok_or(WorkerError::NoLease),
            LeaseAsk::Release { nonce } => {
                let Some(lease) = current else { return Err(WorkerError::NoLease) };
                if nonce.is_empty() {
                    return Err(WorkerError::Invalid("releasing a lease needs its nonce".into()));
                }
                lease::permits(self.id, Some(&lease), &nonce, now)?;
                let before = self.state.clone();
                self.state.lease = None;
                self.recorded_or(before).await?;
                self.publish();
                Ok(Answer::Lease(lease))
            }
            LeaseAsk::Acquire(acquire) => {
                if !self.state.phase.state().is_active() {
                    return Err(WorkerError::NotFound { machine: self.id });
                }
                let fresh = self.context.mint.nonce();
                let version = self.sealed.bundle.version;
                let lease = lease::acquire(self.id, current.as_ref(), &acquire, version, now, fresh)?;
                let before = self.state.clone();
                self.state.lease = Some(lease.clone());
                self.recorded_or(before).await?;
                self.publish();
                Ok(Answer::Lease(lease))
            }
        }
    }

    /// Metadata is part of the configuration but makes no new version and restarts nothing.
    async fn set_metadata(&mut self, change: SetMetadata) -> Reply {
        let current = self.sealed.bundle.version;
        if let Some(expected) = change.expected_version.filter(|expected| *expected != current) {
            return Err(WorkerError::Precondition(format!(
                "machine version is {current}, not {expected}: read the machine again"
            )));
        }
        if !self.state.phase.state().is_active() {
            return Err(WorkerError::NotFound { machine: self.id });
        }
        let mut opened = self.opened()?;
        let metadata = &mut opened.config.metadata;
        if change.replace_all {
            metadata.clear();
        }
        for (key, value) in change.entries {
            if value.is_empty() {
                metadata.remove(&key);
            } else {
                metadata.insert(key, value);
            }
        }
        self.replace_bundle(opened).await
    }

    /// Policies hold for the present run at once, and are kept for later ones. Held to first and recorded
    /// then: the view tells what is recorded, and whoever finds it unchanged asks again.
    async fn set_limits(&mut self, limits: NetworkLimits) -> Reply {
        if !self.state.phase.state().is_active() {
            return Err(WorkerError::NotFound { machine: self.id });
        }
        // A start under way goes on with the bundle that it began with.
        if matches!(self.state.phase, Phase::Starting { .. }) {
            return Err(WorkerError::Precondition("the machine is being started: ask again".into()));
        }
        if self.running.is_some() {
            let plan = effects::network_plan(&self.sealed.bundle, self.state.slot);
            let held = self.context.deps.networks.limit(&plan, &limits).await;
            held.map_err(|error| WorkerError::Precondition(atoll_signals::with_causes(&error)))?;
        }
        if self.sealed.bundle.limits == limits {
            return Ok(Answer::Done);
        }
        let opened = self.opened()?;
        self.replace_bundle(LaunchBundle { limits, ..opened }).await
    }

    fn opened(&self) -> Result<LaunchBundle, WorkerError> {
        effects::open(&self.context, &self.sealed)
            .map_err(|error| WorkerError::Precondition(atoll_signals::with_causes(&error)))
    }

    /// Records the bundle of the same version with something else in it.
    async fn replace_bundle(&mut self, opened: LaunchBundle) -> Reply {
        let sealed = self.seal(&opened)?;
        let plain = Sealed::without_secrets(opened);
        let machine = self.id;
        let writes = vec![Write::Bundle { machine, bundle: Box::new(plain.clone()), sealed: sealed.clone() }];
        let commit = self.context.store.write(writes).await;
        commit.wait().await.map_err(|source| self.not_recorded(source))?;
        self.sealed = Sealed { bundle: Arc::new(plain), sealed: sealed.into() };
        self.state.updated_at_ms = self.context.now_ms();
        self.publish();
        Ok(Answer::Done)
    }

    fn seal(&self, bundle: &LaunchBundle) -> Result<Vec<u8>, WorkerError> {
        // A bundle holds only maps with text keys, so it always has a JSON form.
        let plain = serde_json::to_vec(bundle).unwrap_or_default();
        let machine = self.id;
        self.context
            .deps
            .seal
            .seal(&seal_context(machine), &plain)
            .map_err(|source| WorkerError::Seal { machine, source })
    }

    /// Waits until the present state is on disk; falls back to `before` when it cannot be.
    async fn recorded_or(&mut self, before: crate::store::DurableState) -> Result<(), WorkerError> {
        let recorded = self.record(Vec::new(), &[]).await;
        if let Err(error) = recorded.await {
            self.state = before;
            return Err(self.not_recorded(error));
        }
        Ok(())
    }

    fn not_recorded(&self, source: StoreError) -> WorkerError {
        WorkerError::NotRecorded { machine: self.id, source }
    }
}

impl Sealed {
    /// What may be kept readable of a bundle.
    pub fn without_secrets(bundle: LaunchBundle) -> LaunchBundle {
        LaunchBundle { secrets: Default::default(), ..bundle }
    }
}
