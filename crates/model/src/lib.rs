//! The vocabulary of Atoll as types: ids, names, regions, addresses, machine configuration and
//! states, catalogue rows, reachability. Everything is parsed once, here, and valid from then on.
//!
//! This crate does no I/O, spawns nothing and never reads a clock; every other crate may import it.

pub mod address;
pub mod config;
pub mod duration;
pub mod egress;
pub mod guest;
pub mod ids;
pub mod machine;
pub mod policy;
pub mod reach;
pub mod region;
pub mod reserved;
pub mod row;
pub mod service;
pub mod wire;

pub use config::MachineConfig;
pub use duration::GoDuration;
pub use ids::{AppName, DeviceName, EventId, MachineId, MachineVersion, NodeName, OrgSlug};
pub use machine::MachineState;
pub use region::RegionCode;
pub use row::{Owner, Row, RowKey, RowVersion};
