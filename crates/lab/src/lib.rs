//! The lab: simulated worlds of hosts on one machine, for tests and demonstrations.
//!
//! A [`world::World`] says which hosts there are and where. [`Lab::start`] makes each a set of namespaces
//! with a single uplink into the relay, one process that forwards between hosts with the delay, jitter,
//! loss and rate of each ordered pair. Faults are [`verb::Verb`]s. The lab knows nothing of Atoll's
//! programs: it starts them as anyone would, by their outer faces.
//!
//! In a world of autonomous systems a real BGP daemon runs in every router, and which node is nearest is
//! what their best paths say; without them the lab steers clients, and says so.
//!
//! - pure: [`world`], [`place`], [`path`], [`address`], and within: steering, the relay's switch, `bgp`'s
//!   configuration
//! - one task owns the state: `engine`; [`lab`] is the handle to it, [`control`] its socket
//! - looking at routes from outside: [`routes`], [`trace`]
//! - helper processes of the `atoll-lab` program: [`relay`], [`host`]
//! - what is left on the machine and taken away: [`premises`], `cgroup`

pub mod address;
mod bgp;
mod cgroup;
pub mod control;
mod disturbance;
mod engine;
pub mod error;
pub mod host;
pub mod lab;
mod network;
pub mod path;
pub mod place;
pub mod premises;
pub mod relay;
pub mod routes;
mod steer;
mod sys;
pub mod trace;
pub mod verb;
pub mod vm;
pub mod world;

pub use error::LabError;
pub use lab::{Host, Lab, Options};
pub use world::World;
