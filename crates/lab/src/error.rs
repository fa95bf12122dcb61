//! What can go wrong in a lab.

use std::fmt::Write;
use std::io;

use crate::world::WorldError;

/// Why the lab could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("the lab needs root: it makes namespaces, control groups and packet sockets")]
    NotRoot,
    #[error("the program atoll-lab is not beside {beside}: build it, or name it in ATOLL_LAB_BIN")]
    NoProgram { beside: String },
    #[error("no world in {file}")]
    World {
        file: String,
        #[source]
        source: WorldError,
    },
    #[error("this world has no host {0:?}")]
    UnknownHost(String),
    #[error("host {host} is {state}")]
    WrongState { host: String, state: &'static str },
    #[error("{0}")]
    Invalid(String),
    #[error("{attempted}")]
    System {
        attempted: String,
        #[source]
        source: io::Error,
    },
    #[error("`{command}` failed: {told}")]
    Tool { command: String, told: String },
    #[error("the relay refused: {0}")]
    Relay(String),
    #[error("host {host} did not boot: {told}")]
    Boot { host: String, told: String },
    #[error("no lab answers at {0}: start one with `atoll-lab run`")]
    NoLab(String),
    #[error("{0}")]
    Refused(String),
    #[error("the lab has ended")]
    Ended,
}

/// Adds what was attempted to an operating system's error.
pub(crate) trait Attempt<T> {
    fn attempting(self, what: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempting(self, what: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|error| LabError::System { attempted: what(), source: error.into() })
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        if write!(text, ": {error}").is_err() {
            break;
        }
        cause = error.source();
    }
    text
}
