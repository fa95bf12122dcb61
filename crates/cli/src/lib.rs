//! The command line: one file a command, all output through [`Printer`], all endings through
//! [`Outcome`]. Knows the client, not the server.

mod commands;
mod connect;
mod outcome;
mod printer;
mod target;

use clap::Subcommand;

pub use commands::Command;
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

/// Whether a word is one of our commands; for the top level's help.
pub fn is_command(word: &str) -> bool {
    Command::has_subcommand(word)
}
