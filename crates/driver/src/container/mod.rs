//! Machines as containers: namespaces, control groups and a system call filter on the host's own
//! kernel. Each machine has a shim, a small process that starts it and outlives the agent; this side
//! only starts shims and talks with them.

mod exec;
mod launch;
mod link;
mod programs;
mod running;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_guest_protocol::shim::{ExitRecord, Failure, Phase, StartRecord, ToShim, layout};
use atoll_model::MachineId;
use atoll_signals::STAGES;
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;
use tokio::process::Command;

use self::link::{Known, Link};
pub use self::programs::ProgramError;
use self::programs::Programs;
use self::running::ContainerMachine;
use crate::{Adopted, Driver, DriverError, Exit, MachineSpec, Running};

/// Longest time a machine may take to start; a shim gives up earlier and says why.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Longest time for a shim to remove what a machine left.
const CLEAN_PATIENCE: Duration = Duration::from_secs(60);

/// Runs machines as containers.
#[derive(Debug)]
pub struct ContainerDriver {
    programs: Programs,
}

impl ContainerDriver {
    /// A driver that keeps the programs it needs below `programs`, for example `<state>/bin`. They
    /// must stay there as long as machines of this build run.
    pub fn new(programs: &Path) -> Result<Self, ProgramError> {
        Ok(Self { programs: Programs::install(programs)? })
    }

    /// Starts the shim with one end of a connection as its standard input.
    fn spawn_shim(&self, spec: &MachineSpec) -> io::Result<UnixStream> {
        std::fs::create_dir_all(&spec.dir)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let complaints = std::fs::File::create(spec.dir.join(layout::SHIM_LOG))?;
        let mut shim = Command::new(&self.programs.shim)
            .arg("run")
            .arg(std::path::absolute(&spec.dir)?)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(complaints)
            .spawn()?;
        // Only reaps it: how the machine ended is said over the connection.
        tokio::spawn(async move { drop(shim.wait().await) });
        UnixStream::from_std(ours)
    }

    async fn clean(&self, dir: &Path, cgroup: &str) -> io::Result<()> {
        let clean = Command::new(&self.programs.shim)
            .arg("clean")
            .arg(std::path::absolute(dir)?)
            .arg(cgroup)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(CLEAN_PATIENCE, clean).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    async fn launch(&self, spec: &MachineSpec) -> Result<Arc<dyn Running>, DriverError> {
        let machine = spec.id;
        let io = |action| move |source| DriverError::Io { machine, action, source };
        let launch = launch::launch(spec, &self.programs.guest)
            .map_err(|error| DriverError::Unstartable { machine, reason: error.to_string() })?;
        let stream = self.spawn_shim(spec).map_err(io("start the shim"))?;
        let talk = io("talk with the shim");
        let link = Link::open(stream).await.map_err(|error| talk(io::Error::other(error)))?;
        link.send(&ToShim::Launch(Box::new(launch))).await.map_err(|error| talk(io::Error::other(error)))?;
        match settled(&link).await.map_err(talk)? {
            Known::Phase(Phase::Running { boot_id, pid, executed_us }) => {
                tracing::debug!(target: STAGES, %machine, at_us = executed_us, "executed");
                Ok(Arc::new(ContainerMachine::new(machine, spec.dir.clone(), boot_id, pid, link)))
            }
            Known::Phase(Phase::Failed(Failure { reason, by_configuration: true })) => {
                Err(DriverError::Unstartable { machine, reason })
            }
            Known::Phase(Phase::Failed(Failure { reason, by_configuration: false })) => {
                Err(io("start")(io::Error::other(reason)))
            }
            // So short a life that its end came before this side saw it run.
            Known::Phase(Phase::Ended(record)) => {
                Ok(Arc::new(ContainerMachine::ended(machine, spec.dir.clone(), record, link)))
            }
            Known::Phase(Phase::Starting | Phase::Unknown) | Known::Gone => {
                let complaints = std::fs::read_to_string(spec.dir.join(layout::SHIM_LOG)).unwrap_or_default();
                Err(io("start")(io::Error::other(format!("the shim ended: {}", complaints.trim()))))
            }
        }
    }
}

#[async_trait]
impl Driver for ContainerDriver {
    fn name(&self) -> &'static str {
        "container"
    }

    async fn start(&self, spec: &MachineSpec) -> Result<Arc<dyn Running>, DriverError> {
        let started = self.launch(spec).await;
        if started.is_err()
            && let Err(error) = self.clean(&spec.dir, &spec.cgroup).await
        {
            // The first error says more; what is left is removed before the next start.
            tracing::warn!(machine = %spec.id, %error, "a failed start could not be cleaned up");
        }
        started
    }

    async fn adopt(&self, id: MachineId, dir: &Path) -> Result<Adopted, DriverError> {
        let found = find(dir).await;
        let found = found.map_err(|source| DriverError::Io { machine: id, action: "find the shim", source })?;
        Ok(match found {
            Found::Running { boot_id, pid, link } => {
                Adopted::Running(Arc::new(ContainerMachine::new(id, dir.to_owned(), boot_id, pid, link)))
            }
            Found::Exited(exit) => Adopted::Exited(exit),
            Found::Nothing => Adopted::Nothing,
        })
    }

    async fn destroy(&self, id: MachineId, dir: &Path, cgroup: &str) -> Result<(), DriverError> {
        let cleaned = self.clean(dir, cgroup).await;
        cleaned.map_err(|source| DriverError::Io { machine: id, action: "remove what was left", source })
    }
}

/// What a machine's folder tells.
enum Found {
    Running { boot_id: String, pid: u32, link: Link },
    Exited(Exit),
    Nothing,
}

async fn find(dir: &Path) -> io::Result<Found> {
    let link = match connect(dir).await {
        Ok(stream) => Link::open(stream).await.ok(),
        Err(error) if nobody_listens(&error) => None,
        Err(error) => return Err(error),
    };
    if let Some(link) = link {
        match settled(&link).await? {
            Known::Phase(Phase::Running { boot_id, pid, .. }) => return Ok(Found::Running { boot_id, pid, link }),
            Known::Phase(Phase::Ended(record)) => return Ok(Found::Exited(launch::exit(record))),
            Known::Phase(Phase::Failed(_)) => return Ok(Found::Nothing),
            // It ended while being asked; its record tells.
            Known::Phase(Phase::Starting | Phase::Unknown) | Known::Gone => {}
        }
    }
    if let Some(record) = read_record::<ExitRecord>(dir, layout::EXIT)? {
        return Ok(Found::Exited(launch::exit(record)));
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    match read_record::<StartRecord>(dir, layout::STARTED)? {
        Some(started) if started.host_boot_id == host => Ok(Found::Exited(lost())),
        _ => Ok(Found::Nothing),
    }
}

/// Whether a connection failed because there is no shim, or because it ended before it took it.
fn nobody_listens(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset)
}

/// The end of a machine whose shim was killed, and which the kernel killed with it.
fn lost() -> Exit {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Exit {
        code: 137,
        signal: Some(9),
        oom_killed: false,
        at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        error: Some("the machine's shim ended without recording why".to_owned()),
    }
}

/// Waits until the machine is no longer starting.
async fn settled(link: &Link) -> io::Result<Known> {
    let mut known = link.known();
    let settled = known.wait_for(|known| !matches!(known, Known::Phase(Phase::Starting | Phase::Unknown)));
    match tokio::time::timeout(START_PATIENCE, settled).await {
        Ok(Ok(known)) => Ok(known.clone()),
        Ok(Err(_)) => Ok(Known::Gone),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Connects by way of the folder's descriptor, since a socket's address is shorter than a path may be.
async fn connect(dir: &Path) -> io::Result<UnixStream> {
    let folder = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), layout::SOCKET)).await
}

/// A record that is not there, or was never finished, is none.
fn read_record<R: serde::de::DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<R>> {
    match std::fs::read(dir.join(name)) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
