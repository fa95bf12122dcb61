//! One machine's life as its shim sees it: take the launch, start, serve, record the end, leave
//! nothing behind.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_guest_protocol::shim::{FromShim, Launch, Phase, StartRecord, ToShim, layout};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::agents::{Agents, Incoming};
use crate::cgroup::Cgroup;
use crate::folder::{self, FolderError};
use crate::serve::{self, ServeError};
use crate::{failure, launch, wait};

/// Longest wait for the machine's previous shim to be gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for the launch after the shim was started.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for agents to read how the machine ended; it is recorded for others.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(1);
/// The shim is not what the kernel should kill when the host is short of memory.
const OOM_SCORE: &str = "-900";

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot prepare the shim")]
    Prepare(#[source] std::io::Error),
    #[error("the agent left before it said what to run")]
    NoLaunch,
    #[error("cannot use the machine's folder")]
    Folder(#[from] FolderError),
    #[error("cannot serve the machine")]
    Serve(#[from] ServeError),
}

pub fn run(folder: &Path) -> Result<(), RunError> {
    let agent = prepare(folder).map_err(RunError::Prepare)?;
    let here = Path::new(".");
    let lock = folder::lock(here, LOCK_PATIENCE)?;
    // An agent that is gone may have been replaced by one that has already cleaned this folder.
    if has_hung_up(&agent) {
        return Err(RunError::NoLaunch);
    }
    let listener = folder::listen()?;
    let mut agents = Agents::default();
    agents.add(agent, &Phase::Starting);
    let launch = await_launch(&mut agents)?;
    let end = live(here, *launch, &listener, &mut agents)?;
    agents.broadcast(&FromShim::Machine(end));
    wait::until(FAREWELL_PATIENCE, || {
        agents.flush();
        agents.backlog() == 0
    });
    drop(lock);
    Ok(())
}

/// Starts and serves the machine; returns how it ended, when it is recorded and all is removed.
fn live(here: &Path, launch: Launch, listener: &UnixListener, agents: &mut Agents) -> Result<Phase, RunError> {
    folder::remove_file(Path::new(layout::EXIT))?;
    folder::remove_folder(Path::new(layout::WRITABLE))?;
    let record = StartRecord {
        boot_id: launch.boot_id.clone(),
        host_boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(RunError::Prepare)?,
        cgroup: launch.cgroup.clone(),
    };
    folder::write_record(here, layout::STARTED, &record, false)?;
    let cgroup = match Cgroup::new(&launch.cgroup) {
        Ok(cgroup) => cgroup,
        Err(error) => return Ok(Phase::Failed(failure::cgroup(error))),
    };
    let started = cgroup.create(&launch.limits).map_err(failure::cgroup);
    let end = match started.and_then(|()| launch::start(here, &launch, &cgroup)) {
        Ok(started) => serve::serve(here, launch, started, &cgroup, listener, agents)?,
        Err(failure) => Phase::Failed(failure),
    };
    folder::remove_file(Path::new(layout::SOCKET))?;
    if let Err(error) = cgroup.destroy() {
        eprintln!("atoll-shim: {}", failure::cgroup(error).reason);
    }
    if matches!(end, Phase::Failed(_)) {
        folder::remove_file(Path::new(layout::STARTED))?;
        folder::remove_folder(Path::new(layout::WRITABLE))?;
    }
    Ok(end)
}

/// Leaves the agent's session and folder, and takes over its connection.
fn prepare(folder: &Path) -> std::io::Result<UnixStream> {
    rustix::process::setsid()?;
    std::env::set_current_dir(folder)?;
    if std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).is_err() {
        eprintln!("atoll-shim: may not protect itself from being killed for memory");
    }
    // Moved away from standard input, where every program expects something harmless.
    let agent = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    agent.set_nonblocking(true)?;
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: replaces the descriptor that standard input names by another open one.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } == -1 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(agent)
}

fn has_hung_up(agent: &UnixStream) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(agent.as_fd(), PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::RDHUP)
}

/// The launch comes on the first agent's connection.
fn await_launch(agents: &mut Agents) -> Result<Box<Launch>, RunError> {
    let deadline = Instant::now() + LAUNCH_PATIENCE;
    loop {
        agents.flush();
        let Some((id, connection)) = agents.connections().next() else { return Err(RunError::NoLaunch) };
        let left = deadline.checked_duration_since(Instant::now()).ok_or(RunError::NoLaunch)?;
        let mut fds = [PollFd::from_borrowed_fd(connection.stream().as_fd(), PollFlags::IN)];
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        // An interrupted wait only asks again.
        let _ = poll(&mut fds, Some(&timeout));
        for incoming in agents.receive(id) {
            if let Incoming::Message(ToShim::Launch(launch)) = incoming {
                return Ok(launch);
            }
        }
    }
}
