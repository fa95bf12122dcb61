//! What the agent, a machine's shim and its guest init say to each other: length-prefixed frames of
//! JSON messages and raw data, over any ordered byte stream (a socket pair for containers, a serial
//! port or vsock for microVMs). Holds the messages, their encoding and the windows that bound data
//! in flight. It must not know who is on the other side, and does no I/O of its own beyond the
//! stream handed to [`connection::Connection`].
//!
//! Peers outlive each other's upgrades, so unknown messages and fields are ignored, new fields have
//! defaults, and both sides say first which [`Versions`] they speak.

pub mod connection;
pub mod frame;
pub mod guest;
pub mod process;
pub mod shim;
mod version;

pub use connection::Connection;
pub use frame::{Channel, Decoder, Frame, FrameError};
pub use version::{Incompatible, Versions};

/// Bytes of one stream and direction that may be under way without the receiver having said
/// [`process::StreamControl::Credit`] or [`process::StreamEvent::Credit`]. Keeps a reader that
/// stalls from filling anybody's memory.
pub const WINDOW: usize = 64 * 1024;

/// The stream of a machine's main process. Its output has no window: the shim always takes it.
pub const MAIN_STREAM: u32 = 0;
