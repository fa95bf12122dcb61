//! DNS: what machines and users' devices ask for in their private network ([`internal`]), the rest of
//! the world through a cache ([`forward`]), and the platform's own zones for everybody ([`public`]).
//! [`serve`] carries any of them over UDP and TCP.
//!
//! Answers are pure functions of immutable views; a server that has lost all others goes on answering
//! from the last one. Must not know the proxy, nor who makes the views.

pub mod forward;
pub mod fuzz;
mod generations;
pub mod internal;
pub mod place;
pub mod public;
mod record;
pub mod serve;
pub mod wire;
