//! The catalogue: the replicated view that routing needs. Each row has one owner who alone writes
//! it; everybody else holds a copy, brought up to date by watch streams.
//!
//! This crate knows neither the proxy that reads the view nor the control process that relays it,
//! and no transport.

pub mod disk;
pub mod fuzz;
pub mod protocol;
pub mod snapshot;
pub mod watch;

pub use snapshot::Snapshot;
