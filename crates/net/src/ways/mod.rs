//! Ways between servers: how well each pair reaches each other is measured beside the mesh, and where that is
//! badly or not at all, a third server carries the mesh's datagrams ([`atoll_mesh::relay`]).
//!
//! Decisions are in [`choice`](self), one state machine for each pair, and in a core that knows what is said
//! when; both are given their time and do nothing themselves. A thread of this module is their hands.

mod choice;
mod core;
mod measure;
mod packet_size;
mod peer;
mod thread;

pub use self::choice::Quality;
pub use self::thread::{Course, Courses, Ways, WaysError};
