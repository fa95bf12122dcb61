//! Typed client of Atoll's API. Knows the wire, not the server: every method is one request, and
//! every failure is classified so that a caller can choose an exit code without reading texts.

mod console;
mod error;
mod lines;
mod requests;
mod tunnel;

pub use console::{ConsoleInput, ConsoleOutput, Output};
pub use error::{ClientError, Kind};
pub use lines::Lines;
pub use requests::{AuditQuery, Client, ExecReply, LogQuery};
pub use tunnel::Tunnel;
