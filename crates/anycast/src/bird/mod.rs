//! The BGP daemon, bird 2: what it is told ([`config`]), how it answers ([`reply`], pure) and the
//! conversation with it ([`control`]).

pub mod config;
pub mod control;
pub mod reply;
