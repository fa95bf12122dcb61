//! `atoll-lab`: runs a world, and does things to the one that runs.

mod arguments;
mod commands;
mod internal;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

/// Refused or failed; usage errors exit with 2 by themselves.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    carry_out(Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("atoll-lab: {error:#}");
        ExitCode::from(FAILED)
    })
}

fn carry_out(Arguments { dir, command }: Arguments) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { world } => commands::run(&world, dir),
        Command::Exec { host, program } => commands::exec(dir, &host, &program),
        Command::Status { json } => commands::status(dir, json),
        Command::Trace { host, address } => commands::trace(dir, &host, address),
        Command::Clean => commands::clean(),
        Command::Internal { helper } => internal::run(helper),
        Command::Change(change) => commands::apply(dir, &change.into_verb()),
    }
}
