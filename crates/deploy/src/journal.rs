//! What an executor writes down of the deploy that it holds. Every write carries the lease's fence,
//! and those of outcomes the plan's generation: one that came too late is refused as a whole.

use std::time::Duration;

use atoll_model::AppName;
use atoll_rollout::Record;
use atoll_store::{AppStatus, Deploy, DeployLease, ErrorKind, Release, ReleaseStatus, Store, StoreError};
use serde::Serialize;
use serde_json::Value;

use crate::asked::Remembered;
use crate::narrate::Note;
use crate::planning::Decision;

/// A deploy that this executor holds, and how far it was when it was taken.
pub(crate) struct Claim {
    pub journal: Journal,
    pub release: Release,
    pub deploy: Deploy,
}

pub(crate) struct Journal {
    store: Store,
    lease: DeployLease,
    generation: u64,
    /// Outcomes of a plan are a sequence: each record has the next number.
    next_number: u32,
    now_ms: fn() -> u64,
}

/// Why the records did not take a write.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// Somebody else executes the deploy now, or nobody need any more.
    #[error("the deploy is not ours any more")]
    Fenced(#[source] StoreError),
    #[error("the records of the deploy cannot be written")]
    Store(#[source] StoreError),
    #[error("the plan or an outcome of the deploy cannot be read or written")]
    Json(#[from] serde_json::Error),
}

impl From<StoreError> for JournalError {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            ErrorKind::Conflict | ErrorKind::NotFound => Self::Fenced(error),
            _ => Self::Store(error),
        }
    }
}

fn values<T: Serialize>(items: &[T]) -> Result<Vec<Value>, serde_json::Error> {
    items.iter().map(serde_json::to_value).collect()
}

impl Journal {
    /// Takes a deploy's lease and begins its release. Refused while another release of the app runs.
    pub async fn claim(
        store: &Store,
        release: &str,
        executor: &str,
        now_ms: fn() -> u64,
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        let now = now_ms();
        let until = now + millis(lease);
        let (lease, release, deploy) = store
            .write(|tx| async move {
                let lease = tx.deploy_lease_take(release, executor, now, until).await?;
                let begun = tx.release_begin(release, now).await?;
                let deploy = tx.deploy_fetch(release).await?;
                Ok::<_, StoreError>((lease, begun, deploy))
            })
            .await?;
        let journal = Self { store: store.clone(), lease, generation: deploy.generation, next_number: 0, now_ms };
        Ok(Claim { journal, release, deploy })
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The outcomes of the present plan; later ones are numbered after them.
    pub async fn read(&mut self) -> Result<Vec<Record>, JournalError> {
        let (release, generation) = (&self.lease.release, self.generation);
        let outcomes = self.store.read(|tx| async move { tx.deploy_outcomes(release, generation).await }).await?;
        self.next_number = outcomes.len() as u32;
        Ok(outcomes.into_iter().map(|outcome| serde_json::from_value(outcome.outcome)).collect::<Result<_, _>>()?)
    }

    pub async fn renew(&mut self, lease: Duration) -> Result<(), JournalError> {
        let until = (self.now_ms)() + millis(lease);
        let held = &self.lease;
        self.lease = self.store.write(|tx| async move { tx.deploy_lease_renew(held, until).await }).await?;
        Ok(())
    }

    /// Records the plan that has the generation after the present one.
    pub async fn record_plan(&mut self, plan: &Decision) -> Result<(), JournalError> {
        let value = &serde_json::to_value(plan)?;
        let (lease, replaces) = (&self.lease, self.generation);
        let recorded =
            self.store.write(|tx| async move { tx.deploy_plan_record(lease, replaces, value).await }).await?;
        self.generation = recorded;
        self.next_number = 0;
        Ok(())
    }

    /// Adds records and what people are told along with them, or neither.
    pub async fn append(&mut self, records: &[Record], notes: &[Note]) -> Result<(), JournalError> {
        let (outcomes, events) = (&values(records)?, &values(notes)?);
        let (lease, generation, first, now) = (&self.lease, self.generation, self.next_number, (self.now_ms)());
        self.store
            .write(|tx| async move {
                for (number, outcome) in (first..).zip(outcomes) {
                    tx.deploy_outcome_append(lease, generation, number, outcome, now).await?;
                }
                for event in events {
                    tx.deploy_event_append(lease, event, now).await?;
                }
                Ok::<_, StoreError>(())
            })
            .await?;
        self.next_number += records.len() as u32;
        Ok(())
    }

    /// Ends the release with its last event, and has the app remember what it brought.
    pub async fn finish(
        &self,
        app: &AppName,
        status: ReleaseStatus,
        remembered: Option<&Remembered>,
        note: &Note,
    ) -> Result<(), JournalError> {
        let event = &serde_json::to_value(note)?;
        let (lease, now) = (&self.lease, (self.now_ms)());
        self.store
            .write(|tx| async move {
                tx.deploy_event_append(lease, event, now).await?;
                tx.release_end(&lease.release, status, now).await?;
                if let Some(remembered) = remembered {
                    remembered.record(&tx, app).await?;
                }
                if status == ReleaseStatus::Complete && tx.app_fetch(app).await?.status == AppStatus::Pending {
                    tx.app_set_status(app, AppStatus::Deployed).await?;
                }
                Ok::<_, StoreError>(())
            })
            .await?;
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
