//! `atoll ssh console`: a terminal in a machine.

use std::convert::Infallible;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;

use clap::{Args, Subcommand};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use atoll_client::{Client, ConsoleInput, ConsoleOutput, Output};
use atoll_model::MachineState;
use atoll_model::wire::ConsoleControl;

use crate::outcome::{CliResult, Outcome};
use crate::target::AppTarget;
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum SshCommand {
    /// Open a terminal, or run one command, in a machine
    Console(ConsoleCommand),
}

#[derive(Args, Debug)]
pub struct ConsoleCommand {
    #[command(flatten)]
    pub target: AppTarget,
    /// The machine [default: a started one of the app]
    #[arg(long, value_name = "ID")]
    pub machine: Option<String>,
    /// Run this instead of a shell
    #[arg(short = 'C', long)]
    pub command: Option<String>,
}

pub async fn run(SshCommand::Console(command): SshCommand, client: &Client, _printer: &Printer) -> CliResult {
    let app = command.target.name()?;
    let machine = match command.machine {
        Some(machine) => machine,
        None => {
            let machines = client.machines(&app).await?;
            let started = machines.iter().find(|machine| machine.state == MachineState::Started);
            started
                .map(|machine| machine.id.to_string())
                .ok_or_else(|| CliError::failed(format!("no machine of {app} is started; see `atoll machine start`")))?
        }
    };
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let tty = interactive && command.command.is_none();
    let (rows, columns) = window_size();
    let argv = match command.command {
        Some(text) => vec!["/bin/sh".into(), "-c".into(), text],
        None => vec!["/bin/sh".into()],
    };
    let start = ConsoleControl::Start { command: argv, tty, rows, columns };
    let (input, output) = client.console(&app, &machine, &start).await?;
    let _raw = if tty { Some(RawTerminal::enter()?) } else { None };
    tokio::select! {
        ended = show(output) => ended,
        failed = feed(input, tty) => failed.map(|never| match never {}),
    }
}

/// Shows what the command says, until it has ended.
async fn show(mut output: ConsoleOutput) -> CliResult {
    loop {
        match output.next().await? {
            Output::Bytes(bytes) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&bytes).and_then(|()| out.flush()).map_err(CliError::io("write to the terminal"))?;
            }
            Output::Exit(code) => return Ok(Outcome::Exit(u8::try_from(code).unwrap_or(1))),
        }
    }
}

/// Tells the command what is typed and what happens to the terminal, for as long as it runs.
async fn feed(mut input: ConsoleInput, tty: bool) -> Result<Infallible, CliError> {
    let mut resized = signal(SignalKind::window_change()).map_err(CliError::io("watch the terminal's size"))?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(CliError::io("watch for Ctrl-C"))?;
    let mut stdin = read_stdin();
    let mut stdin_open = true;
    loop {
        let sent = tokio::select! {
            read = stdin.recv(), if stdin_open => match read {
                Some(bytes) => input.input(bytes).await,
                None => {
                    stdin_open = false;
                    input.control(&ConsoleControl::CloseStdin).await
                }
            },
            _ = resized.recv(), if tty => {
                let (rows, columns) = window_size();
                input.control(&ConsoleControl::Resize { rows, columns }).await
            }
            // In a raw terminal Ctrl-C is a byte like any other; here it is ours to pass on.
            _ = interrupted.recv() => input.control(&ConsoleControl::Signal { signal: 2 }).await,
        };
        if sent.is_err() {
            // Why is told by what comes from there.
            std::future::pending::<()>().await;
        }
    }
}

/// Standard input in pieces, from a thread of its own: a read of a terminal cannot be cancelled, and
/// the process ends while it waits.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 8192];
        while let Ok(read @ 1..) = std::io::stdin().lock().read(&mut buffer) {
            if sender.blocking_send(buffer[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn window_size() -> (u16, u16) {
    tcgetwinsize(std::io::stdout().as_fd()).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// The terminal passes every key on until this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self, CliError> {
        let stdin = std::io::stdin();
        let before =
            tcgetattr(stdin.as_fd()).map_err(|error| CliError::io("read the terminal's mode")(error.into()))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)
            .map_err(|error| CliError::io("set the terminal's mode")(error.into()))?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that went away needs no mode.
        tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0).ok();
    }
}
