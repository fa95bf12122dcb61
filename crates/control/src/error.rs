//! What can go wrong when the platform is asked to change, classified once, so that every face of
//! the API answers alike.

use atoll_store::{ErrorKind, StoreError};

/// Whose fault, and what a client may do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The request makes no sense as it is.
    Invalid,
    Unauthenticated,
    Forbidden,
    NotFound,
    /// Somebody else holds or changed it.
    Conflict,
    /// Not in the present state; another call must come first.
    Precondition,
    /// The name is taken.
    NameTaken,
    /// No node has room.
    Capacity,
    /// A disk of control's is full.
    DiskFull,
    TimedOut,
    /// A part of the platform cannot be reached now.
    Unavailable,
    Internal,
}

/// A refusal or failure: `message` is for the caller; the cause is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    pub kind: Kind,
    pub message: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ControlError {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// Our own fault: the caller learns that it failed, the log why.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            kind: Kind::Internal,
            message: "internal error; the server's log says more".into(),
            source: Some(source.into()),
        }
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::TimedOut)
    }
}

/// A worker's answer, in the caller's terms.
impl From<tonic::Status> for ControlError {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        let kind = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Kind::Invalid,
            Code::NotFound => Kind::NotFound,
            Code::Aborted | Code::AlreadyExists => Kind::Conflict,
            Code::FailedPrecondition => Kind::Precondition,
            Code::ResourceExhausted => Kind::Capacity,
            Code::DeadlineExceeded => Kind::TimedOut,
            Code::Unavailable | Code::Cancelled | Code::Unknown => Kind::Unavailable,
            Code::PermissionDenied | Code::Unauthenticated => Kind::Internal,
            _ => Kind::Internal,
        };
        let message = match kind {
            Kind::Unavailable => "the machine's server cannot be reached now".to_owned(),
            Kind::Internal => "internal error; the server's log says more".to_owned(),
            _ => status.message().to_owned(),
        };
        Self { kind, message, source: Some(Box::new(status)) }
    }
}

pub type ControlResult<T> = Result<T, ControlError>;

/// What the records refuse is the caller's to know; what breaks is not.
impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::Taken => Kind::NameTaken,
            ErrorKind::Conflict => Kind::Conflict,
            ErrorKind::Invalid => Kind::Invalid,
            ErrorKind::StorageFull => Kind::DiskFull,
            ErrorKind::Unavailable | ErrorKind::Unknown => Kind::Unavailable,
            ErrorKind::Internal => return Self::internal(error),
        };
        let message = match kind {
            Kind::Unavailable => "the platform's records cannot be reached now".to_owned(),
            Kind::DiskFull => {
                "the disk is full on which control keeps the platform's records; nothing was changed".to_owned()
            }
            _ => error.to_string(),
        };
        Self { kind, message, source: Some(Box::new(error)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_records_refuse_is_told_and_what_breaks_is_not() {
        let refused: ControlError =
            StoreError::Invalid { what: "cursor", name: "x".into(), reason: "not one of this list".into() }.into();
        assert_eq!(refused.kind, Kind::Invalid);
        assert!(refused.message.contains("cursor"));
        let broken: ControlError = StoreError::TransactionMisuse.into();
        assert_eq!(broken.kind, Kind::Internal);
        assert!(!broken.message.contains("transaction"));
    }
}
