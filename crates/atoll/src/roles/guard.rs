//! The guard as a command: it belongs to a server, but not to its supervisor's children, as it must outlive
//! them and keep its one thread.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;

use atoll_anycast::guard::{self, BIRD, Options};
use atoll_signals::LogFormat;

/// Announce this place's addresses by BGP as long as its edge serves
#[derive(Args, Debug)]
pub struct GuardCommand {
    /// What to announce, to whom and how: a file of JSON that is replaced as a whole
    #[arg(long)]
    plan: PathBuf,
    /// Addresses that this place serves, as its edge writes them: edge/served.json in the server's state folder
    #[arg(long)]
    served: Option<PathBuf>,
    /// For the daemon's files, the last good plan and the report
    #[arg(long)]
    folder: PathBuf,
    /// The BGP daemon, bird 2
    #[arg(long, default_value = BIRD)]
    bird: PathBuf,
    /// Which log lines to write
    #[arg(long, default_value = "info")]
    log: String,
    /// Go on where an older program of this process was
    #[arg(long, hide = true)]
    resume: Option<i32>,
    /// Only say whether that is possible
    #[arg(long, hide = true, requires = "resume")]
    check: bool,
}

/// Runs the guard until it is asked to end.
pub fn run(command: GuardCommand, json: bool) -> anyhow::Result<()> {
    atoll_signals::init(&command.log, if json { LogFormat::Json } else { LogFormat::Text })?;
    if command.check {
        let resume = command.resume.context("there is nothing to go on with")?;
        return Ok(guard::check(resume)?);
    }
    ensure!(
        command.bird.is_file(),
        "there is no {}: install Debian's bird2, or name it by --bird",
        command.bird.display()
    );
    let GuardCommand { plan, served, folder, bird, resume, .. } = command;
    Ok(guard::run(&Options { plan, served, folder, bird, resume })?)
}
