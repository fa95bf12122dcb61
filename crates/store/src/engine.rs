//! The two engines behind one small face: open, begin, run, end. Everything that differs between
//! SQLite and PostgreSQL lies here, in `migrate` and in `value`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Arguments, Postgres, SqlSafeStr, Sqlite};

use crate::StoreError;
use crate::value::{Param, Row};

/// Connections that read beside the one that writes (SQLite).
const SQLITE_READERS: u32 = 4;
/// Connections of one control process (PostgreSQL).
const POSTGRES_CONNECTIONS: u32 = 12;
/// How long a caller waits for a connection before it hears that the records are unavailable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long SQLite waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the records are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// A file, made when missing.
    Sqlite(PathBuf),
    /// A URL such as `postgres://atoll@db.example/atoll`.
    Postgres(String),
}

impl FromStr for Location {
    type Err = std::convert::Infallible;

    /// A `postgres:` or `postgresql:` URL, or else a path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Ok(Self::Postgres(text.to_owned()))
        } else {
            Ok(Self::Sqlite(text.into()))
        }
    }
}

impl std::fmt::Display for Location {
    /// Never shows a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => {
                let rest = url.split_once("://").map_or("", |(_, rest)| rest);
                let rest = rest.split('?').next().unwrap_or_default();
                write!(f, "postgres://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
            }
        }
    }
}

#[derive(Clone)]
pub(crate) enum Engine {
    /// SQLite has one writer at a time anyway: one connection makes writers queue fairly in the
    /// pool instead of polling the file's lock.
    Sqlite {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Postgres(PgPool),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// A snapshot; never fails for what others do.
    Read,
    Write,
    /// Sees what others committed while it waited for the migration lock.
    Migrate,
}

impl Engine {
    pub(crate) async fn open(location: &Location) -> Result<Self, StoreError> {
        let open_failed = |source| StoreError::Open { location: location.to_string(), source };
        match location {
            Location::Sqlite(path) => {
                create_private(path)?;
                let options = sqlite_options(path);
                let writer = SqlitePoolOptions::new()
                    .max_connections(1)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .connect_with(options.clone())
                    .await
                    .map_err(open_failed)?;
                let readers = SqlitePoolOptions::new()
                    .max_connections(SQLITE_READERS)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .connect_lazy_with(options.pragma("query_only", "on"));
                Ok(Self::Sqlite { writer, readers })
            }
            Location::Postgres(url) => {
                // A stuck peer must not hold a control process for ever.
                let options =
                    PgConnectOptions::from_str(url).map_err(open_failed)?.application_name("atoll").options([
                        ("statement_timeout", "30s"),
                        ("lock_timeout", "10s"),
                        ("idle_in_transaction_session_timeout", "60s"),
                    ]);
                PgPoolOptions::new()
                    .max_connections(POSTGRES_CONNECTIONS)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .connect_with(options)
                    .await
                    .map(Self::Postgres)
                    .map_err(open_failed)
            }
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite { .. } => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    pub(crate) async fn begin(&self, mode: Mode) -> Result<Connection, sqlx::Error> {
        let mut connection = match self {
            Self::Sqlite { writer, readers } => {
                let pool = if mode == Mode::Read { readers } else { writer };
                Connection::new(Inner::Sqlite(pool.acquire().await?))
            }
            Self::Postgres(pool) => Connection::new(Inner::Postgres(pool.acquire().await?)),
        };
        connection.command(self.begin_command(mode)).await?;
        Ok(connection)
    }

    fn begin_command(&self, mode: Mode) -> &'static str {
        match (self, mode) {
            (Self::Sqlite { .. }, Mode::Read) => "BEGIN",
            // Taking the write lock at once makes a conflict a wait, never a failed upgrade later.
            (Self::Sqlite { .. }, _) => "BEGIN IMMEDIATE",
            (Self::Postgres(_), Mode::Read) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            (Self::Postgres(_), Mode::Write) => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            (Self::Postgres(_), Mode::Migrate) => "BEGIN ISOLATION LEVEL READ COMMITTED",
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                // The last connection checkpoints the log and removes it.
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

fn sqlite_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // A commit that was acknowledged survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
}

/// Makes the file readable by its owner alone; SQLite gives its side files the same mode.
fn create_private(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|source| StoreError::Create { path: path.to_owned(), source })
}

/// A connection inside a transaction. Dropped before its end, it is closed rather than returned, so
/// that a cancelled transaction can neither be committed nor leak into the next one.
pub(crate) struct Connection {
    inner: Inner,
    ended: bool,
}

enum Inner {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl Connection {
    fn new(inner: Inner) -> Self {
        Self { inner, ended: false }
    }

    pub(crate) async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.command("COMMIT").await?;
        self.ended = true;
        Ok(())
    }

    pub(crate) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.command("ROLLBACK").await?;
        self.ended = true;
        Ok(())
    }

    /// Runs statements without parameters, several at once if need be.
    pub(crate) async fn command(&mut self, sql: impl SqlSafeStr) -> Result<(), sqlx::Error> {
        match &mut self.inner {
            Inner::Sqlite(connection) => sqlx::raw_sql(sql).execute(&mut **connection).await.map(drop),
            Inner::Postgres(connection) => sqlx::raw_sql(sql).execute(&mut **connection).await.map(drop),
        }
    }

    pub(crate) async fn execute(&mut self, sql: impl SqlSafeStr, params: Vec<Param>) -> Result<u64, sqlx::Error> {
        match &mut self.inner {
            Inner::Sqlite(connection) => {
                let query = sqlx::query_with(sql, sqlite_arguments(params)?);
                query.execute(&mut **connection).await.map(|done| done.rows_affected())
            }
            Inner::Postgres(connection) => {
                let query = sqlx::query_with(sql, postgres_arguments(params)?);
                query.execute(&mut **connection).await.map(|done| done.rows_affected())
            }
        }
    }

    pub(crate) fn stream(&mut self, sql: &'static str, params: Vec<Param>) -> BoxStream<'_, Result<Row, sqlx::Error>> {
        let failed = |error| futures_util::stream::once(async { Err(error) }).boxed();
        match &mut self.inner {
            Inner::Sqlite(connection) => match sqlite_arguments(params) {
                Ok(arguments) => sqlx::query_with(sql, arguments).fetch(&mut **connection).map_ok(Row::Sqlite).boxed(),
                Err(error) => failed(error),
            },
            Inner::Postgres(connection) => match postgres_arguments(params) {
                Ok(arguments) => {
                    sqlx::query_with(sql, arguments).fetch(&mut **connection).map_ok(Row::Postgres).boxed()
                }
                Err(error) => failed(error),
            },
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.ended {
            match &mut self.inner {
                Inner::Sqlite(connection) => connection.close_on_drop(),
                Inner::Postgres(connection) => connection.close_on_drop(),
            }
        }
    }
}

macro_rules! arguments {
    ($name:ident, $arguments:ty) => {
        fn $name(params: Vec<Param>) -> Result<$arguments, sqlx::Error> {
            let mut arguments = <$arguments>::default();
            for param in params {
                match param {
                    Param::Integer(value) => arguments.add(value),
                    Param::Text(value) => arguments.add(value),
                    Param::Bytes(value) => arguments.add(value),
                }
                .map_err(sqlx::Error::Encode)?;
            }
            Ok(arguments)
        }
    };
}
arguments!(sqlite_arguments, SqliteArguments);
arguments!(postgres_arguments, PgArguments);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_url_or_a_path_and_hides_its_password() {
        let shown = |text: &str| text.parse::<Location>().map(|location| location.to_string()).unwrap();
        assert_eq!(shown("/var/lib/atoll/control.db"), "/var/lib/atoll/control.db");
        assert_eq!(shown("postgres://atoll:s3cret@db.example:5432/atoll?x=s3cret"), "postgres://db.example:5432/atoll");
    }
}
