//! Between edges: one multiplexed HTTP/2 connection a core and node, mutual TLS by node identity.
//! Requests travel as they are, with what the edges tell each other in `atoll-` headers; upgraded
//! connections travel as extended CONNECT.
//!
//! The receiving edge decides again by its own catalogue and counters before any byte reaches the
//! machine. Its verdict tells a request that was turned away untouched from one that broke.

mod connect;
mod peers;
mod probe;
mod server;
mod wire;

pub(crate) use peers::Peers;
pub(crate) use probe::run as run_probes;
pub(crate) use server::serve_peer;
pub(crate) use wire::read_back;
