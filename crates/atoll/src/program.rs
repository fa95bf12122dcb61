//! From the words typed to the thing done, and its exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use atoll_cli::{Command, Connection, ControlCommand, Outcome, Printer};
use atoll_signals::LogFormat;

use crate::node::join::JoinCommand;
use crate::node::launch::UpCommand;
use crate::node::leave::{LeaveCommand, leave};
use crate::node::options::{ServerOptions, with_file};
use crate::node::restore::restore;
use crate::node::{join, launch};
use crate::roles;
use crate::roles::guard::GuardCommand;

/// Open edge app platform: apps from a folder with a fly.toml, near their users, on your own servers
#[derive(Parser, Debug)]
#[command(name = "atoll", version, propagate_version = true, max_term_width = 100)]
struct Program {
    #[command(flatten)]
    connection: Connection,

    /// Print data as JSON; progress and logs as one object a line
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: TopCommand,
}

#[derive(Subcommand, Debug)]
enum TopCommand {
    Up(Box<UpCommand>),
    Join(Box<JoinCommand>),
    Leave(LeaveCommand),
    /// One process of a server; started by its supervisor
    #[command(hide = true)]
    Role {
        role: String,
        state: PathBuf,
    },
    #[command(hide = true)]
    Guard(GuardCommand),
    #[command(flatten)]
    Client(atoll_cli::Command),
}

pub fn main() -> ExitCode {
    // The only provider this program is built with; a second install cannot happen this early.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let arguments: Vec<String> = std::env::args().collect();
    let server = arguments.iter().any(|word| word == "up" || word == "join");
    let command =
        if server { with_file(Program::command(), &["up", "join"], &arguments) } else { Ok(Program::command()) };
    let command = match command {
        Ok(command) => command,
        Err(error) => return fail(&error.into(), Outcome::Usage),
    };
    let program = match Program::from_arg_matches(&command.get_matches_from(&arguments)) {
        Ok(program) => program,
        Err(error) => error.exit(),
    };
    match program.command {
        TopCommand::Up(up) => {
            let options = up.server.clone();
            serve(&options, launch::up(*up))
        }
        TopCommand::Join(join) => {
            let options = join.server.clone();
            serve(&options, join::join(*join))
        }
        TopCommand::Leave(command) => {
            match runtime().map_err(Into::into).and_then(|runtime| runtime.block_on(leave(command))) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, Outcome::Failed),
            }
        }
        TopCommand::Role { role, state } => match roles::run(&role, state) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, Outcome::Failed),
        },
        TopCommand::Guard(command) => match roles::guard::run(command, program.json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, Outcome::Failed),
        },
        TopCommand::Client(Command::Control(ControlCommand::Restore { file, state, database })) => {
            match runtime().map_err(Into::into).and_then(|runtime| runtime.block_on(restore(&file, &state, database))) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, Outcome::Failed),
            }
        }
        TopCommand::Client(command) => {
            let printer = Printer { json: program.json };
            let outcome = match runtime() {
                Ok(runtime) => runtime.block_on(atoll_cli::run(command, &program.connection, &printer)),
                Err(error) => return fail(&error.into(), Outcome::Failed),
            };
            // A thread that waits for the terminal's next key must not keep us.
            std::process::exit(outcome.code().into())
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Runs the supervisor of a server.
fn serve(options: &ServerOptions, work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let format = if options.log_json { LogFormat::Json } else { LogFormat::Text };
    if let Err(error) = atoll_signals::init(&options.log, format) {
        return fail(&error.into(), Outcome::Usage);
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), Outcome::Failed),
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, Outcome::Failed),
    }
}

fn fail(error: &anyhow::Error, outcome: Outcome) -> ExitCode {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
    ExitCode::from(outcome.code())
}
