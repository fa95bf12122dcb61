//! How a command ends: exit codes and the texts that go with them.

use atoll_client::{ClientError, Kind};

/// Exit codes, the same for every command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    /// Refused or failed.
    Failed,
    /// Wrong use or configuration.
    Usage,
    NotAllowed,
    NotFound,
    TimedOut,
    /// A command run in a machine ended with this code.
    Exit(u8),
}

impl Outcome {
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotAllowed => 3,
            Self::NotFound => 4,
            Self::TimedOut => 5,
            Self::Exit(code) => code,
        }
    }
}

/// Why a command did not do what it was asked; `hint` says what may help.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The platform's answer, where the command knows what may help.
    #[error("{answer}")]
    Advised { answer: ClientError, hint: String },
    #[error("{message}")]
    Usage { message: String, hint: Option<String> },
    #[error("{message}")]
    Failed { message: String },
    #[error("{message}")]
    NotFound { message: String },
    #[error("cannot {action}")]
    Io {
        action: String,
        #[source]
        source: std::io::Error,
    },
}

impl CliError {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into() }
    }

    pub fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Client(error) | Self::Advised { answer: error, .. } => match error.kind() {
                Kind::Invalid => Outcome::Usage,
                Kind::Refused | Kind::Unavailable => Outcome::Failed,
                Kind::NotAllowed => Outcome::NotAllowed,
                Kind::NotFound => Outcome::NotFound,
                Kind::TimedOut => Outcome::TimedOut,
            },
            Self::Usage { .. } => Outcome::Usage,
            Self::NotFound { .. } => Outcome::NotFound,
            Self::Failed { .. } | Self::Io { .. } => Outcome::Failed,
        }
    }

    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } => hint.as_deref(),
            Self::Advised { hint, .. } => Some(hint),
            Self::Client(error) if error.kind() == Kind::NotAllowed => {
                Some("log in with `atoll auth login`, or set ATOLL_TOKEN")
            }
            Self::Client(ClientError::Connect { .. }) => {
                Some("is the server running? set ATOLL_API, or log in with `atoll auth login`")
            }
            _ => None,
        }
    }
}

pub type CliResult = Result<Outcome, CliError>;
