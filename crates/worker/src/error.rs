//! Why a call was not carried out, classified by what the caller can do about it. `Display` is the
//! text that clients of the Machines API see; causes are in `source`.

use atoll_model::MachineId;

use crate::seams::{ImageError, NetworkError, SealError};
use crate::store::StoreError;

/// A refused or failed call.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("machine not found: {machine}")]
    NotFound { machine: MachineId },
    #[error("lease not found")]
    NoLease,
    /// Not possible in the machine's present state (HTTP 412).
    #[error("{0}")]
    Precondition(String),
    /// Somebody else holds or changed it (HTTP 409).
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Invalid(String),
    /// The awaited did not happen in time (HTTP 408).
    #[error("{0}")]
    TimedOut(String),
    /// The node cannot take it (HTTP 409 with a capacity text).
    #[error("could not reserve resource for machine: insufficient {resource} available to fulfill request")]
    NodeFull { resource: &'static str },
    /// Too many requests wait for this machine, or the agent is ending.
    #[error("machine {machine} does not take requests now: {reason}")]
    Unavailable { machine: MachineId, reason: &'static str },
    #[error("the change of machine {machine} could not be recorded")]
    NotRecorded {
        machine: MachineId,
        #[source]
        source: StoreError,
    },
    #[error("machine {machine} cannot {action}")]
    Driver {
        machine: MachineId,
        action: &'static str,
        #[source]
        source: atoll_driver::DriverError,
    },
    #[error("image {digest} cannot be made ready")]
    Image {
        digest: String,
        #[source]
        source: ImageError,
    },
    #[error("the launch bundle of machine {machine} cannot be sealed or opened")]
    Seal {
        machine: MachineId,
        #[source]
        source: SealError,
    },
    #[error("the logs of machine {machine} cannot be read")]
    Logs {
        machine: MachineId,
        #[source]
        source: std::io::Error,
    },
}

/// Why the agent cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot make the worker's folder {path}")]
    Folder {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot open the worker's records")]
    Store(#[source] StoreError),
    #[error("cannot prepare the node's network")]
    Network(#[source] NetworkError),
}
