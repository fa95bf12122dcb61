//! Platforms on trial: whole platforms in lab worlds, under a load that never retries. The demo, the
//! end-to-end tests and the benches are made of this. Uses the program's faces only.
//!
//! - [`platform`]: a lab world with servers in it, and what can be done to them
//! - [`visit`]: one request from a host; [`load`]: many, with the fate of each
//! - [`guard`]: the guard and a real BGP daemon on a node
//! - [`lifecycle`]: a request from the name to the answer, where BGP leads it
//! - [`inside`]: what a machine sees of its private network
//! - [`demo`]: the demonstration
//! - [`faults`]: what the death of each process may cost; [`persist`]: whoever notices
//! - [`first_call`]: a call right after the private network's process was killed
//! - [`private`]: two machines on two servers, and what becomes of packets between them
//! - [`short_lives`]: servers whose certificates live for seconds
//! - [`slow_link`]: what the demo and a test do to a link
//! - [`wait`], [`programs`]: conditions and files

pub mod demo;
pub mod detour;
pub mod faults;
pub mod first_call;
pub mod guard;
pub mod inside;
pub mod lifecycle;
pub mod load;
pub mod persist;
pub mod platform;
pub mod private;
pub mod programs;
pub mod short_lives;
pub mod slow_link;
pub mod visit;
pub mod wait;
