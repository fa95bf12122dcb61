//! What the lab tells its relay and hears back: one JSON value a line over a socket pair.

use serde::{Deserialize, Serialize};

use crate::address::Port;
use crate::path::Path;

/// An order to the relay; it answers each with one [`Answer`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Take this interface of the relay's network namespace as a host's port.
    Attach { port: Port, interface: String },
    /// Let go of a port whose host is gone.
    Detach { port: Port },
    /// Change the paths of ordered pairs; none cuts.
    Paths { paths: Vec<(Port, Port, Option<Path>)> },
    /// Only answer.
    Report,
}

/// The relay's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done(Report),
    Refused(String),
}

/// How the relay is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The scheduling it was granted, such as `"SCHED_FIFO 10"`.
    pub priority: String,
    pub counters: Counters,
}

/// Frames since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub forwarded: u64,
    /// By the chance that was asked for.
    pub lost: u64,
    /// Because a line or a rate limit's queue was full.
    pub overflowed: u64,
    /// For nobody, for a host that is gone, or for a pair that is cut or not connected.
    pub unreachable: u64,
    /// Refused by the kernel on the way out.
    pub refused: u64,
}
