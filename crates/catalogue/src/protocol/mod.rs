//! The catalogue protocol without I/O: messages and time go in, messages and decisions come out.
//! Nothing here spawns, sends, or reads a clock, so that a simulation can run years of faults.

mod account;
pub mod barrier;
pub mod codec;
mod fence;
pub mod hub;
mod inbox;
pub mod lease;
pub mod log;
pub mod message;
pub mod replica;
pub mod saved;
mod sense;
pub mod series;
pub mod targets;

pub use account::Account;
pub use hub::Hub;
pub use inbox::PathId;
pub use log::{OwnerLog, RowLog};
pub use message::Positions;
pub use replica::Replica;
pub use sense::{Refusal, RefusalCounts};

#[cfg(test)]
mod tests;
