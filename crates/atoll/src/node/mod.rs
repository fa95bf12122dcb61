//! A server as an operator sees it: its options, its state folder, its first start, its processes.

pub mod join;
pub mod launch;
pub mod metrics;
pub mod options;
pub mod restore;
pub mod setup;
pub mod sockets;
pub mod state;
pub mod supervisor;
