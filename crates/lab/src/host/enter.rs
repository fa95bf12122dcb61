//! Runs a program in a host: joins its control group and namespaces, starts the program, passes signals
//! on, and reports its exit code as a shell would.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::cgroup::Group;
use crate::sys::{self, Awaited, Fork};

/// Exit codes as shells have them.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const KILLED_BY: i32 = 128;

const PASSED_ON: &[libc::c_int] =
    &[libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// As high as the relay: what the lab simulates must not wait for what runs in it.
const FIFO_PRIORITY: libc::c_int = 10;

/// How a program is scheduled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Ordinary,
    /// In real time where the machine allows it. Of the host's control groups the program is then in all but
    /// that of the processor, which grants none; it is frozen and killed with the host all the same.
    RealTime,
}

/// Runs a program in the host whose first process is `first`, and gives its exit code.
///
/// # Errors
/// If the host cannot be entered; a program that cannot be started gives 126 or 127.
pub fn run(first: Pid, group: PathBuf, class: Class, program: &[OsString]) -> io::Result<i32> {
    let process = rustix::process::pidfd_open(first, PidfdFlags::empty())?;
    let folder = std::env::current_dir();
    let group = Group::named(group)?;
    match class {
        Class::Ordinary => group.enter_leaf()?,
        // Before the group is joined, which decides who may.
        Class::RealTime => match sys::set_fifo(FIFO_PRIORITY) {
            Ok(()) => group.enter_leaf_in_real_time()?,
            Err(error) => {
                eprintln!("atoll-lab: real-time priority was refused ({error}): expect false alarms on a busy machine");
                group.enter_leaf()?;
            }
        },
    }
    let namespaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP | libc::CLONE_NEWPID;
    sys::setns(&process, namespaces)?;
    // Joining a mount namespace leads to its root; the same files are below the same names.
    if let Ok(folder) = folder {
        std::env::set_current_dir(folder)?;
    }
    let mut awaited = PASSED_ON.to_vec();
    awaited.push(libc::SIGCHLD);
    let signals = Awaited::block(&awaited)?;
    // Only a child is in the new PID namespace.
    match sys::fork()? {
        Fork::Child => {
            let error = match start(&signals, program) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            eprintln!("atoll-lab: {}: {error}", program.first().map(|p| p.to_string_lossy()).unwrap_or_default());
            let missing = error.kind() == io::ErrorKind::NotFound;
            std::process::exit(if missing { NOT_FOUND } else { NOT_EXECUTABLE });
        }
        Fork::Parent(child) => wait_for(child, &signals),
    }
}

fn start(signals: &Awaited, program: &[OsString]) -> io::Result<Infallible> {
    let [name, arguments @ ..] = program else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program is named"));
    };
    // Killing the one outside kills the program, so that the caller's handle means what it says.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    signals.unblock()?;
    Err(Command::new(name).args(arguments).exec())
}

fn wait_for(child: Pid, signals: &Awaited) -> io::Result<i32> {
    loop {
        let arrived = signals.wait()?;
        if arrived.signal == libc::SIGCHLD {
            if let Some((_, status)) = rustix::process::waitpid(Some(child), WaitOptions::NOHANG)? {
                let killed_by = || KILLED_BY + status.terminating_signal().unwrap_or_default();
                return Ok(status.exit_status().unwrap_or_else(killed_by));
            }
        } else if arrived.from_process
            && let Some(signal) = Signal::from_named_raw(arrived.signal)
        {
            // What the terminal sends has reached the program already.
            match rustix::process::kill_process(child, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
