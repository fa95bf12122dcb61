//! Opening the records and running closures on them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atoll_signals::metrics::Histogram;

use crate::engine::{Engine, Location, Mode};
use crate::error::Fault;
use crate::{ReadTx, StoreError, WriteTx, migrate, retry};

/// The records. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
    timings: Arc<Timings>,
}

/// How long transactions took, with all their repeats, whether they succeeded or not.
#[derive(Debug, Default)]
pub struct Timings {
    pub reads: Histogram,
    pub writes: Histogram,
    retries: AtomicU64,
}

impl Timings {
    /// Transactions that ran again because another one was in the way.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }
}

/// Reading is tried again only for a lost connection, and not for long.
const READ_ATTEMPTS: u32 = 3;

impl Store {
    /// Opens the records, makes them when there are none, and brings their schema up to date.
    pub async fn open(location: &Location) -> Result<Self, StoreError> {
        let store = Self { engine: Engine::open(location).await?, timings: Arc::default() };
        let mut attempt = 0;
        loop {
            match migrate::migrate(&store.engine).await {
                Err(
                    StoreError::Begin { source } | StoreError::Query { source, .. } | StoreError::Commit { source },
                ) if Fault::of(&source).is_transient() && attempt + 1 < retry::ATTEMPTS => {
                    pause(attempt).await;
                }
                result => return result.map(|()| store),
            }
            attempt += 1;
        }
    }

    /// Runs `work` in a serializable transaction and commits when it returns `Ok`. When another
    /// transaction was in the way, `work` runs again from its beginning, after a short pause and a
    /// bounded number of times.
    pub async fn write<T, E, F, Fut>(&self, work: F) -> Result<T, E>
    where
        F: Fn(WriteTx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<StoreError>,
    {
        let began = Instant::now();
        let result = self.write_until_done(&work).await;
        self.timings.writes.observe(began.elapsed());
        result
    }

    async fn write_until_done<T, E, F, Fut>(&self, work: &F) -> Result<T, E>
    where
        F: Fn(WriteTx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<StoreError>,
    {
        let mut attempt = 0;
        loop {
            let last = attempt + 1 >= retry::ATTEMPTS;
            match self.write_once(work).await {
                Outcome::Done(result) => return result,
                Outcome::Again(error) if last => return Err(error),
                Outcome::Again(_) => {
                    tracing::debug!(attempt, "a write met another one and runs again");
                    self.timings.retries.fetch_add(1, Ordering::Relaxed);
                    pause(attempt).await;
                }
            }
            attempt += 1;
        }
    }

    async fn write_once<T, E, F, Fut>(&self, work: &F) -> Outcome<T, E>
    where
        F: Fn(WriteTx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<StoreError>,
    {
        let connection = match self.engine.begin(Mode::Write).await {
            Ok(connection) => connection,
            Err(source) => {
                let again = Fault::of(&source).is_transient() && !matches!(source, sqlx::Error::PoolTimedOut);
                return Outcome::failed(again, StoreError::Begin { source }.into());
            }
        };
        let tx = WriteTx::new(connection);
        let result = work(tx.clone()).await;
        let (connection, transient) = tx.finish();
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                if let Some(connection) = connection {
                    roll_back(connection).await;
                }
                return Outcome::failed(transient, error);
            }
        };
        let Some(connection) = connection else {
            return Outcome::Done(Err(StoreError::TransactionMisuse.into()));
        };
        match connection.commit().await {
            Ok(()) => Outcome::Done(Ok(value)),
            Err(source) => match Fault::of(&source) {
                Fault::Contended => Outcome::Again(StoreError::Commit { source }.into()),
                Fault::Disconnected => Outcome::Done(Err(StoreError::CommitUnknown { source }.into())),
                _ => Outcome::Done(Err(StoreError::Commit { source }.into())),
            },
        }
    }

    /// Runs `work` on a consistent snapshot.
    pub async fn read<T, E, F, Fut>(&self, work: F) -> Result<T, E>
    where
        F: Fn(ReadTx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<StoreError>,
    {
        let began = Instant::now();
        let result = self.read_until_done(&work).await;
        self.timings.reads.observe(began.elapsed());
        result
    }

    async fn read_until_done<T, E, F, Fut>(&self, work: &F) -> Result<T, E>
    where
        F: Fn(ReadTx) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<StoreError>,
    {
        let mut attempt = 0;
        loop {
            let connection = match self.engine.begin(Mode::Read).await {
                Ok(connection) => connection,
                Err(source) if may_read_again(&source, attempt) => {
                    pause(attempt).await;
                    attempt += 1;
                    continue;
                }
                Err(source) => return Err(StoreError::Begin { source }.into()),
            };
            let tx = ReadTx::new(connection);
            let result = work(tx.clone()).await;
            let (connection, transient) = tx.finish();
            if let Some(connection) = connection {
                roll_back(connection).await;
            }
            if result.is_ok() || !transient || attempt + 1 >= READ_ATTEMPTS {
                return result;
            }
            pause(attempt).await;
            attempt += 1;
        }
    }

    /// How long transactions took since the records were opened.
    pub fn timings(&self) -> &Arc<Timings> {
        &self.timings
    }

    /// Whether the database answers; for health checks.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.read(|tx| async move { tx.rows("SELECT version FROM schema_migrations", Vec::new()).await.map(drop) })
            .await
    }

    /// Ends all connections, waiting for running transactions.
    pub async fn close(&self) {
        self.engine.close().await;
    }
}

enum Outcome<T, E> {
    Done(Result<T, E>),
    Again(E),
}

impl<T, E> Outcome<T, E> {
    fn failed(again: bool, error: E) -> Self {
        if again { Self::Again(error) } else { Self::Done(Err(error)) }
    }
}

fn may_read_again(error: &sqlx::Error, attempt: u32) -> bool {
    Fault::of(error).is_transient() && !matches!(error, sqlx::Error::PoolTimedOut) && attempt + 1 < READ_ATTEMPTS
}

async fn roll_back(connection: crate::engine::Connection) {
    if let Err(error) = connection.rollback().await {
        // The engine may have rolled back by itself; the connection is closed either way.
        tracing::debug!(%error, "a transaction was not rolled back by command");
    }
}

async fn pause(attempt: u32) {
    let pause: Duration = retry::pause(attempt, rand::random());
    tokio::time::sleep(pause).await;
}
