//! The side that clients see: connections, TLS, HTTP, and the way of each request to a machine.

mod accept;
mod certificates;
mod connection;
mod devices;
mod journey;
mod pace;
mod platform_api;
mod private;
mod proxy_protocol;
mod request;
mod search;
mod stall;
mod tcp;
mod tunnel;
mod websocket;

pub(crate) use accept::{Gate, accept};
pub(crate) use certificates::Certificates;
pub(crate) use connection::{serve_http, serve_https, serve_tcp};
pub(crate) use platform_api::ApiPool;
pub(crate) use private::serve_private;
pub(crate) use tunnel::{copy_both_ways, run_tunnel};
pub(crate) use websocket::Frames;
