//! Resumption of the mesh without a round trip: a server whose net process has just started may send the
//! packets that open TCP connections in the same flight as its WireGuard handshakes, sealed under a ticket
//! that the other server gave it earlier. `docs/protocols/mesh-resumption.md` says what this protects and
//! what it does not.
//!
//! ```text
//!   initiator                                        responder
//!      │ ◄──────────── ticket, over mutual TLS ──────── │  Responder::issue
//!      ┊                   restarts                     ┊
//!      │ ── WireGuard initiation ─────────────────────► │
//!      │ ── early: SYN ───────────────────────────────► │  Responder::receive: the ticket is used up
//!      │ ◄───────────────────── answer: SYN and ACK ─── │  Responder::answer
//!      │ ◄───────────────────────── WireGuard answer ── │
//!      │ ══ the session, from here on ════════════════► │
//! ```
//!
//! Everything sent early is sent once more through the session when there is one, so nothing is lost where
//! any of this is refused, and refusals are silent.
//!
//! Both state machines take bytes, the time and randomness, and give bytes. This crate knows neither sockets
//! nor WireGuard, nor how tickets travel.

pub mod fuzz;
mod initiator;
mod keys;
mod packet;
mod party;
mod refused;
mod responder;
mod saved;
mod seen;
mod ticket;
mod wire;

pub use initiator::{Answer, Initiator};
pub use packet::{Flow, LARGEST_PACKET, answered, opened};
pub use party::{MeshKey, Party};
pub use refused::Refused;
pub use responder::{Early, Responder};
pub use saved::Saved;
pub use ticket::{ATTEMPT_LIFE, Attempt, Grant, GrantBytes, Secret, TICKET_LIFE, Ticket, TicketId};
pub use wire::LARGEST_DATAGRAM;

/// Connections that one resumption may open; more wait for the session.
pub const MAX_FLOWS: usize = 32;
