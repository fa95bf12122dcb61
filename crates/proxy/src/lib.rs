//! The edge's data plane: takes users' connections, finds the machine that should answer, wakes it if
//! it sleeps, and carries bytes both ways, through the edge of another node where that is nearer to
//! the machine.
//!
//! It reads one immutable view of the catalogue per decision and knows neither store, control process,
//! RPC nor BGP: see [`surroundings`] for all it asks of the program around it.
//!
//! A request's way: [`front`] (connection, TLS, HTTP, whose request) → [`select`] (which machine) →
//! [`node`] (a machine of this node) or [`backhaul`] (the edge of another node, whose [`node`] goes
//! on) → the machine; and back.

mod backhaul;
mod body;
pub mod config;
mod core;
pub mod counters;
mod departure;
mod edge;
mod errors;
mod front;
pub mod fuzz;
mod headers;
mod node;
pub mod select;
pub mod steering;
pub mod surroundings;

pub use config::EdgeConfig;
pub use counters::Counters;
pub use edge::{EdgeHandle, Listener, Listeners, StartError, start};
pub use surroundings::Surroundings;
