//! Removes whatever a machine left: its shim and processes, its control groups and writable root.
//! Its mounts were in its own namespace and went with it. May run at any time and any number of
//! times; logs stay.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_guest_protocol::shim::layout;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cgroup::{Cgroup, CgroupError};
use crate::folder::{self, FolderError, Lock};

/// Longest wait for a killed shim to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wait between two looks for it.
const ATTEMPT: Duration = Duration::from_millis(5);

#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    #[error("cannot enter {0:?}")]
    Enter(std::path::PathBuf, #[source] std::io::Error),
    #[error("cannot clean the machine's folder")]
    Folder(#[from] FolderError),
    #[error("cannot clean the machine's control group")]
    Cgroup(#[from] CgroupError),
}

pub fn clean(folder: &Path, cgroup: &str) -> Result<(), CleanError> {
    let cgroup = Cgroup::new(cgroup)?;
    if !folder.exists() {
        return Ok(cgroup.destroy()?);
    }
    std::env::set_current_dir(folder).map_err(|error| CleanError::Enter(folder.to_owned(), error))?;
    let here = Path::new(".");
    let _lock = take_over(here)?;
    cgroup.destroy()?;
    for name in [layout::SOCKET, layout::EXIT, layout::STARTED] {
        folder::remove_file(Path::new(name))?;
    }
    Ok(folder::remove_folder(Path::new(layout::WRITABLE))?)
}

/// Takes the folder's lock from whatever shim holds it.
fn take_over(here: &Path) -> Result<Lock, FolderError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match folder::lock(here, ATTEMPT) {
            // A shim that has only begun does not listen yet, so it takes another attempt.
            Err(FolderError::Busy { .. }) if Instant::now() < deadline => kill_shim(),
            other => return other,
        }
    }
}

/// Kills the shim that listens on the machine's socket; its machine dies with it. A shim that ends
/// meanwhile needs no kill.
fn kill_shim() {
    let Ok(connection) = UnixStream::connect(layout::SOCKET) else { return };
    let Ok(peer) = rustix::net::sockopt::socket_peercred(&connection) else { return };
    let Ok(process) = pidfd_open(peer.pid, PidfdFlags::empty()) else { return };
    // The number may be another's by now, if only a child of the shim keeps the socket open. Should it
    // change hands after this look, the signal goes to the process that it was, which is gone.
    if stands_here(peer.pid) {
        let _ = pidfd_send_signal(process.as_fd(), Signal::KILL);
    }
}

/// Whether a process works in the machine's folder, as its shim does.
fn stands_here(pid: Pid) -> bool {
    let place = |path: &str| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    match (place("."), place(&format!("/proc/{}/cwd", pid.as_raw_nonzero()))) {
        (Ok(here), Ok(there)) => here == there,
        _ => false,
    }
}
