//! One deploy while this executor holds it: plan once, then do what comes next until nothing does.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_model::MachineId;
use atoll_model::wire::DeployEventKind;
use atoll_rollout::{Action, ActionId, Next, Plan, Record, Verdict, next_actions};
use atoll_store::{Release, ReleaseStatus};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::asked::Remembered;
use crate::engine::Engine;
use crate::journal::{Claim, Journal, JournalError};
use crate::narrate::{Narrator, Note, ending};
use crate::perform::{Failure, Scene};
use crate::planning::{CannotLook, CannotPlan, Decision, decide, gate_timeout};

/// Texts on their way to the records; what is too much is not missed by anyone.
const SAYINGS: usize = 64;

/// Why an executor stops although the deploy is not over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interrupted {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Look(#[from] CannotLook),
}

pub(crate) struct Run<'a> {
    engine: &'a Arc<Engine>,
    journal: Journal,
    release: Release,
    plan: Plan,
    /// What the app remembers when all is well.
    remembered: Remembered,
    records: Vec<Record>,
    narrator: Narrator,
    tasks: JoinSet<Result<(), Failure>>,
    in_flight: BTreeMap<ActionId, (Action, AbortHandle)>,
    says: mpsc::Sender<(MachineId, String)>,
    heard: mpsc::Receiver<(MachineId, String)>,
    last_said: BTreeMap<MachineId, String>,
}

impl<'a> Run<'a> {
    /// Executes a deploy to its end.
    pub async fn carry_out(engine: &'a Arc<Engine>, claim: Claim) -> Result<(), Interrupted> {
        let Claim { mut journal, release, deploy } = claim;
        let decided = match deploy.plan {
            Some(plan) => serde_json::from_value(plan).map_err(JournalError::from)?,
            None => match make_plan(engine, &release, journal.generation() + 1).await? {
                Ok(decision) => {
                    journal.record_plan(&decision).await?;
                    decision
                }
                Err(refusal) => {
                    let text = format!("release {} was not begun: {refusal}", release.version);
                    let note = Note::general(DeployEventKind::RolledBack, text);
                    return Ok(journal.finish(&release.app, ReleaseStatus::Failed, None, &note).await?);
                }
            },
        };
        let records = journal.read().await?;
        let (says, heard) = mpsc::channel(SAYINGS);
        let Decision { plan, remembered } = decided;
        let narrator = Narrator::new(&plan);
        let run = Self {
            engine,
            journal,
            release,
            plan,
            remembered,
            records,
            narrator,
            tasks: JoinSet::new(),
            in_flight: BTreeMap::new(),
            says,
            heard,
            last_said: BTreeMap::new(),
        };
        run.go().await
    }

    async fn go(mut self) -> Result<(), Interrupted> {
        let mut renewal = interval(self.engine.timing.renewal);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match next_actions(&self.plan, &self.records) {
                Next::Finished(verdict) => return self.finish(&verdict).await,
                Next::Act(actions) => self.launch(actions).await?,
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.take(ended).await?,
                Some((machine, text)) = self.heard.recv() => self.tell(machine, text).await?,
                _ = renewal.tick() => self.journal.renew(self.engine.timing.lease).await?,
            }
        }
    }

    /// Begins what is named and not in flight; drops what is in flight and named no more.
    async fn launch(&mut self, actions: Vec<Action>) -> Result<(), Interrupted> {
        self.in_flight.retain(|id, (_, handle)| {
            let is_named = actions.iter().any(|action| action.id == *id);
            if !is_named {
                handle.abort();
            }
            is_named
        });
        let new: Vec<Action> = actions.into_iter().filter(|action| !self.in_flight.contains_key(&action.id)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let is_known = |id: ActionId| self.records.contains(&Record::Started { action: id });
        let first: Vec<&Action> = new.iter().filter(|action| !is_known(action.id)).collect();
        let started: Vec<Record> = first.iter().map(|action| Record::Started { action: action.id }).collect();
        let notes: Vec<Note> = first.iter().map(|action| self.narrator.begun(action)).collect();
        self.write(started, &notes).await?;
        for action in new {
            let handle = self.spawn(&action);
            self.in_flight.insert(action.id, (action, handle));
        }
        Ok(())
    }

    fn spawn(&mut self, action: &Action) -> AbortHandle {
        let (engine, app, effect) = (self.engine.clone(), self.release.app.clone(), action.effect.clone());
        let (says, gate_timeout) = (self.says.clone(), gate_timeout(&self.release.content));
        let (primary, target) = (self.remembered.homes.primary, self.plan.release);
        let is_essential = self.plan.step(action.id.step).is_none_or(|step| step.is_essential(action.id.undo));
        self.tasks.spawn(async move {
            let machine = effect.machine();
            // When the records are slower than the news, the next look says it again.
            let say = move |text: String| drop(says.try_send((machine, text)));
            let timing = &engine.timing;
            let patience = if is_essential { timing.patience } else { timing.short_patience };
            let (world, store) = (&*engine.world, &engine.store);
            let scene = Scene { world, store, app: &app, gate_timeout, timing, patience, primary, target };
            scene.perform(&effect, &say).await
        })
    }

    /// An action ended.
    async fn take(
        &mut self,
        ended: Result<(tokio::task::Id, Result<(), Failure>), JoinError>,
    ) -> Result<(), Interrupted> {
        let (task, result) = match ended {
            Ok((task, result)) => (task, result),
            Err(error) if error.is_cancelled() => return Ok(()),
            Err(error) => {
                tracing::error!(%error, "an action of a deploy ended abnormally");
                let reason = "internal error; the server's log says more".into();
                let failure = Failure { reason, log: vec![], is_transient: false };
                (error.id(), Err(failure))
            }
        };
        let ended = self.in_flight.iter().find(|(_, (_, handle))| handle.id() == task).map(|(id, _)| *id);
        // It was dropped in the same moment.
        let Some((action, _)) = ended.and_then(|id| self.in_flight.remove(&id)) else { return Ok(()) };
        self.last_said.remove(&action.effect.machine());
        let (record, notes) = match result {
            Ok(()) => (Record::Done { action: action.id }, self.narrator.ended(&action).into_iter().collect()),
            Err(Failure { reason, log, .. }) => {
                let notes = self.narrator.failed(&action, &reason, &log);
                (Record::Failed { action: action.id, reason }, notes)
            }
        };
        self.write(vec![record], &notes).await
    }

    /// Tells people what is being waited for, when it is something else than before.
    async fn tell(&mut self, machine: MachineId, text: String) -> Result<(), Interrupted> {
        let is_waiting = self.in_flight.values().any(|(action, _)| action.effect.machine() == machine);
        if !is_waiting || self.last_said.get(&machine) == Some(&text) {
            return Ok(());
        }
        let note = self.narrator.note(DeployEventKind::Progress, machine, text.as_str());
        self.last_said.insert(machine, text);
        self.write(Vec::new(), &[note]).await
    }

    async fn write(&mut self, records: Vec<Record>, notes: &[Note]) -> Result<(), Interrupted> {
        if records.is_empty() && notes.is_empty() {
            return Ok(());
        }
        self.journal.append(&records, notes).await?;
        self.records.extend(records);
        self.engine.note_written();
        Ok(())
    }

    async fn finish(self, verdict: &Verdict) -> Result<(), Interrupted> {
        let status = match verdict {
            Verdict::Succeeded { .. } => ReleaseStatus::Complete,
            Verdict::RolledBack { .. } | Verdict::Stuck { .. } => ReleaseStatus::Failed,
        };
        let note = ending(self.release.version, verdict);
        tracing::info!(app = %self.release.app, release = self.release.version, text = note.text, "a deploy ended");
        let remembered = Some(&self.remembered).filter(|_| status == ReleaseStatus::Complete);
        let app = &self.release.app;
        self.journal.finish(app, status, remembered, &note).await?;
        if remembered.is_some() {
            // A restart of control tells them too.
            if let Err(error) = self.engine.world.announce(app).await {
                tracing::warn!(%app, %error, "the edges were not told what the app remembers now");
            }
        }
        Ok(())
    }
}

async fn make_plan(
    engine: &Engine,
    release: &Release,
    generation: u64,
) -> Result<Result<Decision, CannotPlan>, CannotLook> {
    let Release { app, content, version, .. } = release;
    decide(&*engine.world, &engine.store, app, content, *version, generation).await
}
