//! An edge as its neighbours see it: real sockets, real HTTP servers as machines, several edges in one
//! process to play several regions. Nothing here needs root.

mod operations;
mod platform_api;
mod protocols;
mod retries;
mod routing;
mod support;
mod tcp;
mod waking;
