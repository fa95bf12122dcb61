//! A server's private network: what the catalogue says, turned into peers and addresses of the mesh
//! ([`peers`], [`links`]), into this host's routes ([`routes`]), and into the devices of users that enter
//! here ([`devices`]); the secrets that it shares with other servers ([`secrets`]), and the ways that its packets
//! take to them ([`ways`]).
//!
//! Decisions are pure functions of a snapshot. This crate knows neither who keeps the catalogue nor what
//! is carried; machines' own interfaces and the packet filter are the worker's.

pub mod devices;
pub mod key;
pub mod links;
pub mod peers;
mod place;
pub mod resolvers;
pub mod routes;
pub mod secrets;
pub mod ways;

pub use place::Place;
