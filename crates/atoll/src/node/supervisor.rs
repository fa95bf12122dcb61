//! Starts the processes of a server and starts them again when they end; holds the listening
//! sockets. No other logic: it must never be the reason that something stops.
//!
//! Machines are nobody's children here: their shims stand alone, so ending the supervisor, with or
//! without its processes, leaves them running for the next start to adopt.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use rustix::thread::{CapabilitySet, CapabilitySets};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::metrics::{self, Restarts};
use super::sockets::Inherited;
use super::state::StateDir;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A process that ran this long was well: its next restart is immediate again.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// A process ends so when its platform has given this server up: nothing of it may be started again.
pub const GIVEN_UP: i32 = 75;
/// Tells a child on which descriptor to say that it serves.
pub const READY_VARIABLE: &str = "ATOLL_READY_FD";

/// One process to keep running.
pub struct Process {
    pub role: &'static str,
    /// `None`: stays root.
    pub user: Option<User>,
    pub sockets: Inherited,
}

impl Process {
    pub fn unprivileged(role: &'static str, id: u32, sockets: Inherited) -> Self {
        Self { role, user: Some(User { id, capabilities: CapabilitySet::empty() }), sockets }
    }
}

/// Whom a process runs as.
#[derive(Clone, Copy)]
pub struct User {
    pub id: u32,
    /// What it may do beyond its user.
    pub capabilities: CapabilitySet,
}

/// Everything the supervisor needs to know.
pub struct Plan {
    pub state: StateDir,
    pub processes: Vec<Process>,
    /// How long processes get to end by themselves.
    pub grace: Duration,
    /// Where the supervisor says its own metrics.
    pub metrics: UnixListener,
}

/// The lock that makes a role unique on a state folder; held for the life of the process.
pub struct RoleLock(#[expect(dead_code, reason = "dropping the file gives up the lock")] File);

impl RoleLock {
    /// Takes the lock and records our pid, or says whose it is.
    pub fn take(state: &StateDir, role: &str) -> anyhow::Result<Result<Self, u32>> {
        let path = state.run().join(format!("{role}.pid"));
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            return Ok(Err(text.trim().parse().unwrap_or(0)));
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Ok(Self(file)))
    }
}

/// Makes a role's lock file its own, as the folder is not.
pub fn hand_over_lock(state: &StateDir, role: &str, uid: u32) -> anyhow::Result<()> {
    let path = state.run().join(format!("{role}.pid"));
    let open = OpenOptions::new().create(true).append(true).open(&path);
    open.and_then(|_| std::os::unix::fs::chown(&path, Some(uid), Some(uid)))
        .with_context(|| format!("cannot hand {} to user {uid}", path.display()))
}

/// Ends processes of an earlier supervisor that died before them, so that their sockets are free.
pub fn end_leftovers(state: &StateDir, roles: &[&str], grace: Duration) -> anyhow::Result<()> {
    for role in roles {
        let started = Instant::now();
        loop {
            match RoleLock::take(state, role)? {
                Ok(_free) => break,
                Err(pid) => {
                    let urgent = started.elapsed() > grace;
                    let Some(process) = rustix::process::Pid::from_raw(pid.cast_signed()) else {
                        bail!("the lock of {role} is held, but {role}.pid names no process")
                    };
                    let signal = if urgent { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
                    // The process may end between the look and the signal: that is what we want.
                    rustix::process::kill_process(process, signal).ok();
                    if started.elapsed() > grace + Duration::from_secs(10) {
                        bail!("process {pid} ({role}) of an earlier start does not end");
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
    Ok(())
}

struct Running {
    process: Process,
    child: Option<Child>,
    started: Instant,
    pause: Duration,
    /// When to start again, while it is down.
    due: Option<Instant>,
}

/// Runs the plan until a signal asks to stop. `serving` is called once, when every process has said
/// for the first time that it serves.
pub async fn run(plan: Plan, serving: impl FnOnce()) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut all: Vec<Running> = Vec::new();
    let mut ready = Vec::new();
    for process in plan.processes {
        let (child, pipe) = start(&process, &plan.state)?;
        ready.push(tokio::task::spawn_blocking(move || said_ready(&pipe)));
        all.push(Running { process, child: Some(child), started: Instant::now(), pause: FIRST_PAUSE, due: None });
    }
    let restarts = Arc::new(Restarts::new(all.iter().map(|running| running.process.role)));
    metrics::serve("supervisor", plan.metrics, vec![restarts.clone()])?;
    let mut all_ready = std::pin::pin!(async {
        for one in ready {
            if !one.await.unwrap_or(false) {
                // The process ended first; its restart is under way and said in the log.
                return false;
            }
        }
        true
    });
    let mut serving = Some(serving);

    loop {
        let next_due = all.iter().filter_map(|running| running.due).min();
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            every_one = &mut all_ready, if serving.is_some() => {
                if let Some(serving) = serving.take() {
                    if every_one {
                        serving();
                    } else {
                        stop(all, plan.grace).await;
                        bail!("a process of this server ended before it served; the lines above say why");
                    }
                }
            }
            (index, status) = any_exit(&mut all) => {
                if status.as_ref().is_ok_and(|status| status.code() == Some(GIVEN_UP)) {
                    all[index].child = None;
                    stop(all, plan.grace).await;
                    bail!("the platform has given this server up as lost; to have it back, clear it and join under a new name");
                }
                let status = describe(status);
                let running = &mut all[index];
                running.child = None;
                restarts.note(running.process.role);
                if running.started.elapsed() > WELL_AFTER {
                    running.pause = FIRST_PAUSE;
                }
                tracing::warn!(role = running.process.role, %status, again_in = ?running.pause, "a process ended");
                running.due = Some(Instant::now() + running.pause);
                running.pause = (running.pause * 2).min(LONGEST_PAUSE);
            }
            () = sleep_until(next_due) => {
                for running in &mut all {
                    if running.due.is_some_and(|due| due <= Instant::now()) {
                        running.due = None;
                        match start(&running.process, &plan.state) {
                            Ok((child, _ready)) => {
                                running.child = Some(child);
                                running.started = Instant::now();
                            }
                            Err(error) => {
                                tracing::error!(role = running.process.role, error = format!("{error:#}"), "cannot start a process");
                                running.due = Some(Instant::now() + LONGEST_PAUSE);
                            }
                        }
                    }
                }
            }
        }
    }
    stop(all, plan.grace).await;
    Ok(())
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// The first child to end.
async fn any_exit(all: &mut [Running]) -> (usize, std::io::Result<ExitStatus>) {
    let waits = all.iter_mut().enumerate().filter_map(|(index, running)| {
        let child = running.child.as_mut()?;
        Some(Box::pin(async move { (index, child.wait().await) }))
    });
    let waits: Vec<_> = waits.collect();
    if waits.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(waits).await.0
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| format!("unknown: {error}"), |status| status.to_string())
}

fn start(process: &Process, state: &StateDir) -> anyhow::Result<(Child, OwnedFd)> {
    let (ready_read, ready_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let (variable, value, mut keep) = process.sockets.describe();
    keep.push(ready_write.as_raw_fd());
    let program = PathBuf::from("/proc/self/exe");
    let mut command = std::process::Command::new(program);
    command
        .arg0(format!("atoll {}", process.role))
        .arg("role")
        .arg(process.role)
        .arg(&state.0)
        .env(variable, value)
        .env(READY_VARIABLE, ready_write.as_raw_fd().to_string())
        .stdin(std::process::Stdio::null());
    let user = process.user;
    // SAFETY: between fork and exec only async-signal-safe system calls are made.
    unsafe {
        command.pre_exec(move || prepare_child(&keep, user));
    }
    let child = Command::from(command).spawn().with_context(|| format!("cannot start {}", process.role))?;
    Ok((child, ready_read))
}

/// Runs in the child before exec: keeps the handed descriptors open and gives up root.
fn prepare_child(keep: &[RawFd], user: Option<User>) -> std::io::Result<()> {
    for fd in keep {
        // SAFETY: these descriptors are open in the parent and so in its fresh copy.
        let fd = unsafe { rustix::fd::BorrowedFd::borrow_raw(*fd) };
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
    }
    if let Some(User { id, capabilities }) = user {
        rustix::thread::set_keep_capabilities(!capabilities.is_empty())?;
        // SAFETY: plain system calls; libc's wrappers would also work on other threads, but after
        // fork there is only this one.
        unsafe {
            if libc::setgroups(0, std::ptr::null()) != 0 || libc::setgid(id) != 0 || libc::setuid(id) != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        keep_only(capabilities)?;
    }
    // A terminal's Ctrl-C reaches the supervisor alone, which then ends the others in order.
    rustix::process::setsid()?;
    Ok(())
}

/// Gives up all capabilities of this thread but these, which also outlive the start of another program.
pub fn keep_only(capabilities: CapabilitySet) -> std::io::Result<()> {
    let sets = CapabilitySets { effective: capabilities, permitted: capabilities, inheritable: capabilities };
    rustix::thread::set_capabilities(None, sets)?;
    for capability in capabilities.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

fn said_ready(pipe: &OwnedFd) -> bool {
    let mut byte = [0; 1];
    matches!(rustix::io::read(pipe.as_fd(), &mut byte), Ok(1))
}

/// Tells the supervisor, if there is one, that this process serves.
pub fn say_ready() {
    let Some(fd) = std::env::var(READY_VARIABLE).ok().and_then(|text| text.parse::<RawFd>().ok()) else { return };
    // SAFETY: the descriptor was inherited for this purpose and is used once.
    let pipe = unsafe { OwnedFd::from_raw_fd(fd) };
    // The supervisor may be gone; then nobody waits for this.
    rustix::io::write(&pipe, b"r").ok();
}

async fn stop(all: Vec<Running>, grace: Duration) {
    let mut children: Vec<(&'static str, Child)> =
        all.into_iter().filter_map(|running| Some((running.process.role, running.child?))).collect();
    for (_, child) in &children {
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            // It may have ended already.
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
    }
    let deadline = tokio::time::Instant::now() + grace;
    for (role, child) in &mut children {
        if tokio::time::timeout_at(deadline, child.wait()).await.is_err() {
            tracing::warn!(role, "a process did not end in time and is killed");
            // It may have ended in this very moment.
            drop(child.kill().await);
        }
    }
}

/// Removes a file of an earlier run, if there is one.
pub fn remove_stale(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the old {}", path.display()))
        }
        _ => Ok(()),
    }
}
