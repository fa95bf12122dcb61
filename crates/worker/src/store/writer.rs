//! The one task that writes, with group commit: it takes everything that waits, applies it in one
//! transaction, syncs once and answers all. When that fails, each job is tried by itself, so that one
//! bad job fails alone.

use std::sync::Arc;

use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::{StoreError, Write};
use crate::seams::StepHook;

/// Jobs that may wait.
const QUEUE: usize = 4096;
/// Jobs that share one transaction at most.
const GROUP: usize = 512;

struct Job {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// Takes writes. Cheap to clone; the writer ends when the last clone is gone.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

/// Resolves when the writes of one job are on disk, or could not be.
pub struct Commit(Receiver);

enum Receiver {
    Waiting(oneshot::Receiver<Result<(), StoreError>>),
    Refused(StoreError),
}

impl Commit {
    pub async fn wait(self) -> Result<(), StoreError> {
        match self.0 {
            Receiver::Waiting(done) => done.await.unwrap_or(Err(StoreError::Closed)),
            Receiver::Refused(error) => Err(error),
        }
    }
}

impl Store {
    pub(super) fn spawn(connection: SqliteConnection, hook: Arc<dyn StepHook>) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(connection, queue, hook));
        Self { jobs }
    }

    /// Queues writes that belong together; they become durable together or not at all. Jobs become
    /// durable in the order of their queueing. Waits only while the queue is full.
    pub async fn write(&self, writes: Vec<Write>) -> Commit {
        let (done, waiting) = oneshot::channel();
        match self.jobs.send(Job { writes, done }).await {
            Ok(()) => Commit(Receiver::Waiting(waiting)),
            Err(_) => Commit(Receiver::Refused(StoreError::Closed)),
        }
    }
}

async fn run(mut connection: SqliteConnection, mut queue: mpsc::Receiver<Job>, hook: Arc<dyn StepHook>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.recv_many(&mut group, GROUP).await > 0 {
        let together = commit(&mut connection, &group).await;
        for job in group.drain(..) {
            let result = match &together {
                Ok(()) => Ok(()),
                Err(_) => commit(&mut connection, std::slice::from_ref(&job)).await,
            };
            if let Err(error) = &result {
                tracing::error!(error = %atoll_signals::with_causes(error), "a change could not be recorded");
            } else {
                let labels: Vec<String> = job.writes.iter().map(Write::label).collect();
                hook.recorded(&labels.join("+")).await;
            }
            // The caller may have gone away; the write stands.
            let _ = job.done.send(result);
        }
    }
}

async fn commit(connection: &mut SqliteConnection, jobs: &[Job]) -> Result<(), StoreError> {
    let fail = |source| StoreError::query("write", source);
    let mut transaction = connection.begin().await.map_err(fail)?;
    for write in jobs.iter().flat_map(|job| &job.writes) {
        write.apply(&mut transaction).await.map_err(fail)?;
    }
    transaction.commit().await.map_err(fail)
}
