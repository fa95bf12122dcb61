//! The helper processes that the lab starts from this same program. They have one thread, which forking
//! and joining namespaces needs.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use atoll_lab::host::enter::Class;
use atoll_lab::host::{enter, init};
use atoll_lab::relay;
use atoll_lab::vm::wire::Request;
use atoll_lab::vm::{guest, machine, session};
use rustix::process::Pid;

use crate::arguments::Helper;

pub fn run(helper: Helper) -> anyhow::Result<ExitCode> {
    match helper {
        Helper::Relay { hosts, seed } => {
            // The lab gives the control socket as standard input.
            let control = UnixStream::from(own_stdin()?);
            relay::run(control, hosts, seed).context("relay")?;
            Ok(ExitCode::SUCCESS)
        }
        Helper::Host { furniture } => {
            let furniture = serde_json::from_str(&furniture).context("read the host's description")?;
            init::keep(&furniture, own_stdin()?).context("keep the host")?;
            Ok(ExitCode::SUCCESS)
        }
        Helper::Vm { machine } => {
            let machine = serde_json::from_str(&machine).context("read the machine's description")?;
            machine::keep(&machine, own_stdin()?).context("keep the machine")?;
            Ok(ExitCode::SUCCESS)
        }
        Helper::Guest { name, disk } => {
            guest::run(&name, &disk).context("run the guest")?;
            Ok(ExitCode::SUCCESS)
        }
        Helper::Session { input, folder, program } => {
            let mut bytes = Vec::new();
            if input {
                std::io::stdin().read_to_end(&mut bytes).context("read the input")?;
            }
            session(&folder, program, bytes)
        }
        Helper::Enter { real_time, first, group, program } => {
            let first = Pid::from_raw(first).context("0 is no process")?;
            enter(first, group, if real_time { Class::RealTime } else { Class::Ordinary }, &program)
        }
        Helper::Hog { threads } => hog(threads),
    }
}

/// Runs a program in a host and exits as it does.
pub fn enter(
    first: Pid,
    group: std::path::PathBuf,
    class: Class,
    program: &[std::ffi::OsString],
) -> anyhow::Result<ExitCode> {
    let code = enter::run(first, group, class, program).context("enter the host")?;
    Ok(exit_code(code))
}

/// Computes for nothing until killed.
fn hog(threads: usize) -> ! {
    let spin = || {
        loop {
            std::hint::spin_loop();
        }
    };
    for _ in 1..threads {
        std::thread::spawn(spin);
    }
    spin()
}

/// Runs a program in a guest and exits as it does.
pub fn session(folder: &Path, program: Vec<String>, input: Vec<u8>) -> anyhow::Result<ExitCode> {
    let request = Request { program, environment: Vec::new(), folder: "/".into(), input };
    let code = session::run(folder, request, std::io::stdout(), std::io::stderr()).context("ask the guest")?;
    Ok(exit_code(code))
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn own_stdin() -> std::io::Result<OwnedFd> {
    std::io::stdin().as_fd().try_clone_to_owned()
}
