//! Control's records: organizations, apps, machines' placement, releases, secrets, tokens, nodes.
//! SQLite for one control process, PostgreSQL for several; every query is written once and tested
//! on both.
//!
//! - A write is a closure run in one SERIALIZABLE transaction and run again when another transaction
//!   was in its way: it must have no effect but on the records.
//! - Wall time comes from the caller, in Unix milliseconds.
//! - Record functions are methods of [`ReadTx`] and [`WriteTx`], named noun first; several in one
//!   closure are one atomic change.
//!
//! ```
//! # use atoll_store::*;
//! async fn create(store: &Store, new: &NewApp, now_ms: u64) -> Result<App, StoreError> {
//!     store.write(|tx| async move { tx.app_create(new, now_ms).await }).await
//! }
//! ```
//! The closure may run more than once: what it needs is borrowed before (`let new = &new;`), not
//! moved in.
//!
//! This crate knows neither HTTP nor what the records are used for.

mod backup;
mod engine;
mod error;
mod ids;
mod migrate;
mod page;
mod records;
mod retry;
mod store;
mod tx;
mod value;

pub use backup::{BackupError, BackupSummary};
pub use engine::Location;
pub use error::{ErrorKind, StoreError};
pub use page::{MAX_LIMIT, Page, PageRequest};
pub use records::*;
pub use store::{Store, Timings};
pub use tx::{ReadTx, WriteTx};
pub use value::UnknownWord;

/// The suite that both engines pass; here on SQLite, in `tests/postgres` on PostgreSQL.
#[cfg(test)]
extern crate self as atoll_store;
#[cfg(test)]
#[path = "../tests/suite/mod.rs"]
mod suite;

#[cfg(test)]
mod sqlite_suite {
    use crate::{Location, Store, suite};

    macro_rules! on_sqlite {
        ($($case:ident)*) => { $(
            #[tokio::test]
            async fn $case() {
                let dir = tempfile::tempdir().unwrap();
                let store = Store::open(&Location::Sqlite(dir.path().join("control.db"))).await.unwrap();
                suite::$case(&store).await;
                store.close().await;
            }
        )* };
    }
    suite::every_case!(on_sqlite);
}
