//! The node agent: owns the machines of one node, their durable records, their checks, logs and
//! networks. One task owns one machine ([`machine`]); what it decided is durable before a caller
//! hears of it ([`store`]); an agent that dies at any moment is followed by one that finds reality,
//! compares it with the records and goes on ([`Worker::start`]).
//!
//! It does not know the public API, control or routing: control calls it ([`grpc`]), edges read the
//! rows it publishes through [`seams::RowSink`].

mod agent;
mod calls;
mod capacity;
mod checks;
mod clock;
mod config;
mod error;
pub mod fuzz;
pub mod grpc;
mod health;
mod launch;
mod lease;
mod logs;
mod machine;
pub mod network;
mod row;
pub mod seams;
mod store;
mod traces;

pub use agent::{Agent, Caller, Worker};
pub use calls::{
    CreateMachine, ExecCommand, LeaseAsk, SetMetadata, StopOptions, UpdateMachine, Usage, WaitFor, Waited,
};
pub use clock::{Clock, SystemClock};
pub use config::{Knobs, WorkerConfig};
pub use error::{StartError, WorkerError};
pub use lease::Acquire;
pub use logs::{LogEntry, LogQuery};
pub use seams::Deps;
pub use store::StoreError;
pub use traces::{TracesError, remove_traces};

// The behavioural suite in `tests/suite` is run twice: here over the fakes, without root, and in
// `tests/container.rs` over the container driver. It names the crate as a user would.
#[cfg(test)]
extern crate self as atoll_worker;
#[cfg(test)]
#[path = "../tests/fake/mod.rs"]
mod fake;
#[cfg(test)]
#[path = "../tests/suite/mod.rs"]
mod suite;
#[cfg(test)]
mod suite_on_fakes;
