//! The agent over gRPC: [`WorkerService`] for control (mutual TLS), [`LocalService`] for the edge of
//! the same node (unix socket). Thin: messages to calls, answers to messages, errors to codes. Who
//! may call is judged before, by the transport's identity.

mod convert;
mod local;
mod status;
mod worker;

pub use local::LocalService;
pub use worker::WorkerService;
