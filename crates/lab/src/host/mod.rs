//! Hosts made of namespaces: how one is made ([`init`]), how a program gets into one ([`enter`]), and
//! how the lab holds one ([`body`]).
//!
//! The first two run in helper processes of the `atoll-lab` binary, which have one thread.

pub mod body;
pub mod enter;
pub mod init;
pub mod setup;
