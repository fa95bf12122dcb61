//! The worker's durable records: SQLite in WAL mode with full synchronisation. One task writes;
//! what waits in its queue shares a transaction, so that many machines changing at once cost one
//! fsync. Everything is read once, at the start; from then on the machines' tasks hold the truth and
//! this holds its durable copy.

mod records;
mod schema;
mod writer;

use std::path::Path;
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

pub use records::{Intent, LastExit, MachineState as DurableState, Recorded, Write};
pub use writer::{Commit, Store};

use crate::seams::StepHook;

/// The records could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open {path}")]
    Open {
        path: String,
        #[source]
        source: Arc<sqlx::Error>,
    },
    #[error("{path} was written by a newer program (schema {found}, this one knows {known})")]
    TooNew { path: String, found: i64, known: i64 },
    #[error("the node's disk is full")]
    Full(#[source] Arc<sqlx::Error>),
    #[error("cannot {action} the worker's records")]
    Query {
        action: &'static str,
        #[source]
        source: Arc<sqlx::Error>,
    },
    #[error("the record of {what} cannot be read: {reason}")]
    Unreadable { what: String, reason: String },
    #[error("the worker's records are closed")]
    Closed,
}

impl StoreError {
    fn query(action: &'static str, source: sqlx::Error) -> Self {
        /// `SQLITE_FULL`: no space left, or the configured size is reached.
        const FULL: &str = "13";
        let full = source.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == FULL);
        let source = Arc::new(source);
        if full { Self::Full(source) } else { Self::Query { action, source } }
    }
}

/// Opens the records at `path`, making them if missing, and reads all machines.
pub async fn open(
    path: &Path,
    max_bytes: u64,
    hook: Arc<dyn StepHook>,
) -> Result<(Store, Vec<Result<Recorded, StoreError>>), StoreError> {
    let mut connection = connect(path, max_bytes).await?;
    schema::prepare(&mut connection, path).await?;
    let machines = records::load(&mut connection).await?;
    Ok((Store::spawn(connection, hook), machines))
}

async fn connect(path: &Path, max_bytes: u64) -> Result<SqliteConnection, StoreError> {
    const PAGE: u64 = 4096;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .page_size(PAGE as u32)
        .pragma("max_page_count", (max_bytes / PAGE).max(16).to_string())
        .disable_statement_logging();
    SqliteConnection::connect_with(&options)
        .await
        .map_err(|source| StoreError::Open { path: path.display().to_string(), source: Arc::new(source) })
}
