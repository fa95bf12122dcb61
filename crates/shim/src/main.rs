//! The shim: one small process for each machine, parent of the machine's first process. It starts
//! the machine, keeps its output, and records how it ended, whether or not an agent is there to
//! listen. It must not know apps or routing, and it decides nothing: what to run and when to end it
//! is told by the agent.
//!
//! `atoll-shim run <folder>` serves one machine; the agent is at the other end of standard input.
//! `atoll-shim clean <folder> <cgroup>` removes whatever such a process left, however it ended.
//!
//! Single-threaded on purpose: see [`launch`].

mod agents;
mod cgroup;
mod clean;
mod failure;
mod folder;
mod hierarchies;
mod inside;
mod launch;
mod log;
mod privileges;
mod root;
mod run;
mod seccomp;
mod serve;
mod wait;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome: Result<(), Box<dyn Error>> = match arguments[..] {
        ["run", folder] => run::run(Path::new(folder)).map_err(Into::into),
        ["clean", folder, cgroup] => clean::clean(Path::new(folder), cgroup).map_err(Into::into),
        _ => Err("usage: atoll-shim run <folder> | clean <folder> <cgroup>".into()),
    };
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("atoll-shim: {text}");
    ExitCode::FAILURE
}
