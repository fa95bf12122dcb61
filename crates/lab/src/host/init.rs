//! A host's first process, and the keeper outside that ties its life to the lab's.
//!
//! The keeper makes a PID namespace and forks the first process into it. That one makes and furnishes
//! the other namespaces, then does nothing but reap orphans. The keeper waits for the lab to hang up or
//! for the first process to die; it leaves nothing alive. A lab that is killed thus takes its hosts
//! along.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::setup::{self, Furniture};
use crate::error::chain;
use crate::sys::{self, Fork};

/// Runs the keeper: prints `ready <pid>` once the host is furnished, or the error, and returns when the
/// host is dead. `lifeline` is readable, at its end, once the lab is gone.
pub fn keep(furniture: &Furniture, lifeline: impl AsFd) -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWPID)?;
    let (ready_read, ready_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match sys::fork()? {
        Fork::Child => {
            drop(ready_read);
            let mut ready = File::from(ready_write);
            // The keeper's death is the host's.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if let Err(error) = setup::furnish(furniture) {
                ready.write_all(chain(&error).as_bytes())?;
                return Err(io::Error::other(error));
            }
            ready.write_all(b"ready")?;
            drop(ready);
            reap_for_ever()
        }
        Fork::Parent(first) => {
            drop(ready_write);
            let mut report = String::new();
            File::from(ready_read).read_to_string(&mut report)?;
            if report == "ready" {
                writeln!(io::stdout(), "ready {}", first.as_raw_nonzero())?;
            } else {
                writeln!(io::stdout(), "{report}")?;
            }
            watch(first, lifeline)
        }
    }
}

/// Waits until the process is dead or the lab gone, and leaves neither the process nor what it keeps alive.
pub(crate) fn watch(first: Pid, lifeline: impl AsFd) -> io::Result<()> {
    let process = rustix::process::pidfd_open(first, PidfdFlags::empty())?;
    let mut watched = [PollFd::new(&process, PollFlags::IN), PollFd::new(&lifeline, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        };
    }
    match rustix::process::pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    // Returns once the whole PID namespace is empty: the kernel kills its members before the first dies.
    rustix::process::waitpid(Some(first), WaitOptions::empty())?;
    Ok(())
}

fn reap_for_ever() -> io::Result<()> {
    let children = sys::Awaited::block(&[libc::SIGCHLD])?;
    // The keeper alone speaks with the lab.
    sys::drop_stdin_and_stdout()?;
    loop {
        children.wait()?;
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) | Err(rustix::io::Errno::CHILD) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
