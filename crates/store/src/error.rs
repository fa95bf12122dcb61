//! What can go wrong with the records, sorted by whose fault it is ([`StoreError::kind`]), so that
//! one place above can turn it into status codes.

use std::path::PathBuf;

type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the records at {location}")]
    Open { location: String, source: sqlx::Error },
    #[error("cannot make the records' file {path}")]
    Create { path: PathBuf, source: std::io::Error },
    #[error("cannot begin a transaction")]
    Begin { source: sqlx::Error },
    #[error("the records' database failed at `{sql}`")]
    Query { sql: &'static str, source: sqlx::Error },
    #[error("cannot commit")]
    Commit { source: sqlx::Error },
    /// The connection broke while committing: the change may or may not have been made.
    #[error("the connection to the records was lost while committing: the outcome is unknown")]
    CommitUnknown { source: sqlx::Error },
    #[error("migration {version} of the records failed")]
    Migrate { version: u32, source: sqlx::Error },
    #[error("the records have schema {found}, this program knows up to {known}: they were written by a newer Atoll")]
    NewerSchema { found: u32, known: u32 },
    #[error("column {column} of a record cannot be read")]
    Decode { column: &'static str, source: Cause },
    #[error("a value for {what} cannot be written as JSON")]
    Encode { what: &'static str, source: serde_json::Error },
    /// A transaction's handle was used after its closure ended, or by two futures at once.
    #[error("a transaction was used after its end or twice at once")]
    TransactionMisuse,

    #[error("{what} {name:?} not found")]
    NotFound { what: &'static str, name: String },
    /// `holder` is the id of the record that has the name already, where there is one to tell.
    #[error("{what} {name:?} is already taken")]
    Taken { what: &'static str, name: String, holder: Option<String> },
    /// The record moved on: a stale version, generation, epoch or lease.
    #[error("{what} {name:?}: {reason}")]
    Conflict { what: &'static str, name: String, reason: String },
    #[error("{what} {name:?}: {reason}")]
    Invalid { what: &'static str, name: String, reason: String },

    #[error("cannot seal {what} {name:?}")]
    Seal { what: &'static str, name: String, source: Cause },
    #[error("cannot open the sealed {what} {name:?}")]
    Unseal { what: &'static str, name: String, source: Cause },
}

/// Whose fault a [`StoreError`] is and what may be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    NotFound,
    Taken,
    Conflict,
    Invalid,
    /// The database is away or overloaded: try later.
    Unavailable,
    /// The disk of the database is full: nothing was changed.
    StorageFull,
    /// The change may have been made: look before trying again.
    Unknown,
    /// A bug or damaged records.
    Internal,
}

impl StoreError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Taken { .. } => ErrorKind::Taken,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::CommitUnknown { .. } => ErrorKind::Unknown,
            Self::Open { source, .. }
            | Self::Begin { source }
            | Self::Query { source, .. }
            | Self::Commit { source }
            | Self::Migrate { source, .. } => Fault::of(source).kind(),
            _ => ErrorKind::Internal,
        }
    }

    pub(crate) fn not_found(what: &'static str, name: impl ToString) -> Self {
        Self::NotFound { what, name: name.to_string() }
    }

    pub(crate) fn taken(what: &'static str, name: impl ToString, holder: Option<String>) -> Self {
        Self::Taken { what, name: name.to_string(), holder }
    }

    pub(crate) fn conflict(what: &'static str, name: impl ToString, reason: impl Into<String>) -> Self {
        Self::Conflict { what, name: name.to_string(), reason: reason.into() }
    }

    pub(crate) fn invalid(what: &'static str, name: impl ToString, reason: impl Into<String>) -> Self {
        Self::Invalid { what, name: name.to_string(), reason: reason.into() }
    }
}

/// What an engine's error means, whichever engine said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Another transaction was in the way; the same closure may succeed when run again.
    Contended,
    /// The connection is gone or was never made; what was not committed did not happen.
    Disconnected,
    StorageFull,
    Other,
}

impl Fault {
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Self::Disconnected
            }
            sqlx::Error::Database(error) => error.code().map_or(Self::Other, |code| Self::of_code(&code)),
            _ => Self::Other,
        }
    }

    /// PostgreSQL codes have five characters, SQLite's are numbers of at most four digits.
    fn of_code(code: &str) -> Self {
        match code {
            // Serialization failure, deadlock, lock not available. A unique violation is contention
            // too: every closure looks before it inserts, so only a concurrent one can collide.
            "40001" | "40P01" | "55P03" | "23505" => Self::Contended,
            // Disk full.
            "53100" => Self::StorageFull,
            // Shutdown, crash recovery, starting up, too many connections.
            "57P01" | "57P02" | "57P03" | "53300" => Self::Disconnected,
            code if code.len() == 5 && code.starts_with("08") => Self::Disconnected,
            code => match code.parse::<u32>() {
                // The low byte is the primary code: BUSY, LOCKED; FULL.
                Ok(number) if code.len() <= 4 && matches!(number & 0xff, 5 | 6) => Self::Contended,
                // A unique or primary key constraint.
                Ok(2067 | 1555) => Self::Contended,
                Ok(number) if code.len() <= 4 && number & 0xff == 13 => Self::StorageFull,
                _ => Self::Other,
            },
        }
    }

    /// Whether running the closure again can help.
    pub(crate) fn is_transient(self) -> bool {
        matches!(self, Self::Contended | Self::Disconnected)
    }

    fn kind(self) -> ErrorKind {
        match self {
            Self::Contended | Self::Disconnected => ErrorKind::Unavailable,
            Self::StorageFull => ErrorKind::StorageFull,
            Self::Other => ErrorKind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_engines_are_told_apart() {
        for (code, fault) in [
            ("40001", Fault::Contended),
            ("23505", Fault::Contended),
            ("53100", Fault::StorageFull),
            ("57P01", Fault::Disconnected),
            ("08006", Fault::Disconnected),
            ("23503", Fault::Other),
            ("5", Fault::Contended),
            ("517", Fault::Contended),
            ("2067", Fault::Contended),
            ("13", Fault::StorageFull),
            ("787", Fault::Other),
            ("11", Fault::Other),
        ] {
            assert_eq!(Fault::of_code(code), fault, "{code}");
        }
    }
}
