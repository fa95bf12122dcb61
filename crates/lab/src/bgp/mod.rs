//! BGP in a world of autonomous systems: a real bird in each router's host, and in nodes that ask for it.
//!
//! [`config`] says what a daemon is told and is pure; [`daemon`] is the process. What a node's own program
//! announces, and how, is not known here.

mod config;
pub mod daemon;
