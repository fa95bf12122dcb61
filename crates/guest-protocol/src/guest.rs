//! Messages between a machine's host side (the shim) and its guest init.

use serde::{Deserialize, Serialize};

use crate::Versions;
use crate::process::{Process, ProcessInfo, StreamControl, StreamEvent};

/// From the host to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToGuest {
    Hello(Versions),
    /// Sent once, after the hello: starts the main process as stream 0. When it ends, the guest
    /// reports its exit, kills what is left and ends.
    Configure {
        main: Process,
    },
    Stream {
        stream: u32,
        control: StreamControl,
    },
    /// Asks for [`FromGuest::Processes`] with the same `request`.
    Processes {
        request: u32,
    },
    #[serde(other)]
    Unknown,
}

/// From the guest to the host. Only its hello proves that a machine is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromGuest {
    Hello(Versions),
    Stream {
        stream: u32,
        event: StreamEvent,
    },
    Processes {
        request: u32,
        processes: Vec<ProcessInfo>,
    },
    #[serde(other)]
    Unknown,
}
