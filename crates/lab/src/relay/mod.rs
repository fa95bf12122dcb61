//! The relay: one process through which all frames between hosts pass, each ordered pair with its own
//! delay, jitter, loss and rate.
//!
//! [`switch`], [`line`] and [`shaper`] decide and are pure; [`packet`] is the sockets, [`run`] the loop and
//! [`process`] how the lab holds it. The relay knows ports and paths, and nothing of hosts, cities or faults.

mod chance;
mod line;
mod packet;
pub mod process;
mod run;
mod shaper;
mod switch;
pub mod wire;

pub use run::run;
