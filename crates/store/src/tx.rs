//! Transactions as handles. A closure given to [`crate::Store::write`] gets a [`WriteTx`] by value
//! and calls record functions on it; the store commits when the closure ends well.
//!
//! The connection lies in a slot; each statement takes it out and puts it back. A statement that is
//! cancelled half way takes the connection with it, which then closes: nothing can be committed that
//! was not awaited to its end, and no lock is held while the database works.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::TryStreamExt;
use tokio::sync::mpsc;

use crate::StoreError;
use crate::engine::Connection;
use crate::error::Fault;
use crate::value::{Param, Row};

/// A consistent view of the records. Cloning makes another handle of the same transaction.
#[derive(Clone)]
pub struct ReadTx {
    slot: Arc<Mutex<Slot>>,
}

/// A transaction that may change the records; it reads as well.
#[derive(Clone)]
pub struct WriteTx {
    read: ReadTx,
}

struct Slot {
    connection: Option<Connection>,
    /// A statement failed in a way that running the whole closure again may mend.
    transient: bool,
}

impl Deref for WriteTx {
    type Target = ReadTx;

    fn deref(&self) -> &ReadTx {
        &self.read
    }
}

impl ReadTx {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { slot: Arc::new(Mutex::new(Slot { connection: Some(connection), transient: false })) }
    }

    pub(crate) async fn rows(&self, sql: &'static str, params: Vec<Param>) -> Result<Vec<Row>, StoreError> {
        let mut connection = self.take()?;
        let result = connection.stream(sql, params).try_collect().await;
        self.settle(connection, sql, result)
    }

    pub(crate) async fn row_opt(&self, sql: &'static str, params: Vec<Param>) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// The only row of a query that always has one, such as a count.
    pub(crate) async fn row(&self, sql: &'static str, params: Vec<Param>) -> Result<Row, StoreError> {
        self.row_opt(sql, params).await?.ok_or(StoreError::Query { sql, source: sqlx::Error::RowNotFound })
    }

    /// Sends what `make` makes of each row, without holding them all; `false` when nobody takes them
    /// any more.
    pub(crate) async fn pour<T>(
        &self,
        sql: &'static str,
        make: fn(&Row) -> Result<T, StoreError>,
        into: &mpsc::Sender<T>,
    ) -> Result<bool, StoreError> {
        let mut connection = self.take()?;
        let mut poured = Ok(true);
        let streamed = {
            let mut rows = connection.stream(sql, Vec::new());
            loop {
                match rows.try_next().await {
                    Ok(Some(row)) => match make(&row) {
                        Ok(made) => poured = Ok(into.send(made).await.is_ok()),
                        Err(error) => poured = Err(error),
                    },
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
                if !matches!(poured, Ok(true)) {
                    break Ok(());
                }
            }
        };
        self.settle(connection, sql, streamed)?;
        poured
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        // The slot is only ever swapped whole, so a panic elsewhere cannot leave it half changed.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Connection, StoreError> {
        self.lock().connection.take().ok_or(StoreError::TransactionMisuse)
    }

    fn settle<T>(
        &self,
        connection: Connection,
        sql: &'static str,
        result: Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let mut slot = self.lock();
        slot.connection = Some(connection);
        result.map_err(|source| {
            slot.transient |= Fault::of(&source).is_transient();
            StoreError::Query { sql, source }
        })
    }

    /// Ends the handles' access and says whether a transient failure was seen.
    pub(crate) fn finish(&self) -> (Option<Connection>, bool) {
        let mut slot = self.lock();
        (slot.connection.take(), slot.transient)
    }
}

impl WriteTx {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { read: ReadTx::new(connection) }
    }

    /// Runs a statement and returns how many rows it changed.
    pub(crate) async fn execute(&self, sql: &'static str, params: Vec<Param>) -> Result<u64, StoreError> {
        let mut connection = self.take()?;
        let result = connection.execute(sql, params).await;
        self.settle(connection, sql, result)
    }

    /// Like [`WriteTx::execute`] for a text made at run time from names this crate chose.
    pub(crate) async fn execute_made(
        &self,
        what: &'static str,
        sql: String,
        params: Vec<Param>,
    ) -> Result<u64, StoreError> {
        let mut connection = self.take()?;
        let result = connection.execute(sqlx::AssertSqlSafe(sql), params).await;
        self.settle(connection, what, result)
    }
}
