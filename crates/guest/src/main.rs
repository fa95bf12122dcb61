//! The guest init: the first process inside a machine. It starts the main process and commands
//! beside it, carries their input and output, reaps what they leave, and reports how they ended to
//! the host over one channel. It is built static and small, resolves users from the machine's own
//! files, and must know neither the host nor what the machine is for.
//!
//! Single-threaded on purpose: it forks, and a fork of one thread can run ordinary code.

mod commands;
mod identity;
mod lookup;
mod processes;
mod serve;
mod spawn;

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Where the host leaves its end of the channel.
const CHANNEL_FD: i32 = 3;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may read this: a container's guest has no console. The host sees the channel end.
            eprintln!("atoll-guest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), serve::ServeError> {
    // Keeps root's processes in the machine from tracing this one or reading its memory, binary
    // and descriptors under /proc.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(serve::ServeError::Prepare)?;
    rustix::thread::set_name(c"atoll-guest").map_err(serve::ServeError::Prepare)?;
    // SAFETY: the host passes the channel as this descriptor and nothing else in this process owns it.
    let channel = unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) };
    rustix::io::fcntl_setfd(&channel, rustix::io::FdFlags::CLOEXEC).map_err(serve::ServeError::Prepare)?;
    let channel = UnixStream::from(channel);
    channel.set_nonblocking(true).map_err(serve::ServeError::Channel)?;
    serve::serve(channel)
}
