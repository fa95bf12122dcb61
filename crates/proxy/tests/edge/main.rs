//! An edge as its neighbours see it: real sockets, real HTTP servers as machines, several edges in one
//! process to play several regions. Only the private side needs root.

mod operations;
mod platform_api;
mod private;
mod protocols;
mod retries;
mod routing;
mod support;
mod tcp;
mod waking;
