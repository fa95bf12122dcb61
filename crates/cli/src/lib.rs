//! The command line: one file a command, all output through [`Printer`], all endings through
//! [`Outcome`]. Knows the client, not the server.

mod commands;
mod connect;
mod outcome;
mod printer;
mod target;

pub use commands::Command;
pub use commands::control::ControlCommand;
pub use connect::Connection;
pub use outcome::{CliError, Outcome};
pub use printer::Printer;

/// Runs one command against the platform that the options and the environment name.
pub async fn run(command: Command, connection: &Connection, printer: &Printer) -> Outcome {
    match commands::run(command, connection, printer).await {
        Ok(outcome) => outcome,
        Err(error) => printer.fail(&error),
    }
}
