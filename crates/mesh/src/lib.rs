//! The mesh: WireGuard between all servers. A [`Backend`] keeps one link with its peers; two of them
//! speak the same protocol on the wire, one in the kernel where it has the module, one in this process.
//! [`open`] takes the better one and says why.
//!
//! Where UDP does not get through, datagrams travel in a [`stream`].
//!
//! A [`probe::Prober`] tells how well this node reaches the others through it. Where that is badly, a third
//! node's [`relay::Relay`] carries the datagrams as they are; [`signal`] is what nodes say to each other about it.
//!
//! This crate knows keys, addresses and endpoints, and is told them. It knows neither the node directory
//! they come from, nor machines, nor HTTP, nor which routes lead into the link.

mod backend;
mod beside;
mod config;
mod error;
pub mod fuzz;
pub mod kernel;
mod key;
pub mod probe;
pub mod relay;
pub mod signal;
pub mod stream;
pub mod userspace;

pub use backend::{Backend, Kind, Made, Opened, make, open};
pub use beside::{Beside, Taker};
pub use config::{AddressChange, Desired, MAX_ADDRESSES, MAX_PEERS, PeerConfig, PeerStatus, Settings, link_mtu};
pub use error::MeshError;
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
