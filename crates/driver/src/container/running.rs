//! A started container, by its connection to the shim.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_guest_protocol::MAIN_STREAM;
use atoll_guest_protocol::process::StreamControl;
use atoll_guest_protocol::shim::{Answer, Ask, ExitRecord, Phase};
use atoll_model::MachineId;

use super::exec::{self, ExecError};
use super::link::{Known, Link, LinkError};
use super::{Found, find, launch, lost};
use crate::{DriverError, ExecSpec, ExecStreams, Exit, ProcessInfo, Running, Stats};

/// How long a shim that does not answer is left alone before it is asked again how its machine is.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct ContainerMachine {
    id: MachineId,
    dir: PathBuf,
    boot_id: String,
    pid: u32,
    link: Arc<Link>,
    ended: Option<Exit>,
}

impl ContainerMachine {
    pub fn new(id: MachineId, dir: PathBuf, boot_id: String, pid: u32, link: Link) -> Self {
        Self { id, dir, boot_id, pid, link: Arc::new(link), ended: None }
    }

    /// A machine that has ended before it was seen running. It has no pid.
    pub fn ended(id: MachineId, dir: PathBuf, record: ExitRecord, link: Link) -> Self {
        let boot_id = record.boot_id.clone();
        Self { ended: Some(launch::exit(record)), ..Self::new(id, dir, boot_id, 0, link) }
    }

    async fn ask(&self, action: &'static str, ask: Ask) -> Result<Answer, DriverError> {
        self.link.ask(ask).await.map_err(|error| self.failed(action, error))
    }

    fn failed(&self, action: &'static str, error: LinkError) -> DriverError {
        match error {
            LinkError::Gone => DriverError::NotRunning { machine: self.id },
            error => DriverError::Io { machine: self.id, action, source: std::io::Error::other(error) },
        }
    }

    fn unexpected(&self, action: &'static str) -> DriverError {
        DriverError::Io { machine: self.id, action, source: std::io::ErrorKind::InvalidData.into() }
    }
}

/// The machine's end as this connection learns it; none when the connection ends before.
async fn end_on(link: &Link) -> Option<Exit> {
    let mut known = link.known();
    let ended =
        known.wait_for(|known| matches!(known, Known::Phase(Phase::Ended(_) | Phase::Failed(_)) | Known::Gone)).await;
    match ended.ok().as_deref() {
        Some(Known::Phase(Phase::Ended(record))) => Some(launch::exit(record.clone())),
        _ => None,
    }
}

#[async_trait]
impl Running for ContainerMachine {
    fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    async fn wait(&self) -> Exit {
        if let Some(exit) = &self.ended {
            return exit.clone();
        }
        if let Some(exit) = end_on(&self.link).await {
            return exit;
        }
        // The connection may have ended without the shim: only the folder tells.
        loop {
            match find(&self.dir).await {
                Ok(Found::Running { boot_id, link, .. }) if boot_id == self.boot_id => {
                    if let Some(exit) = end_on(&link).await {
                        return exit;
                    }
                }
                Ok(Found::Exited(exit)) => return exit,
                // Destroyed, or started anew: what this was is gone.
                Ok(Found::Running { .. } | Found::Nothing) => return lost(),
                Err(error) => tracing::warn!(machine = %self.id, %error, "cannot learn how a machine is"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn signal(&self, signal: i32) -> Result<(), DriverError> {
        let sent = self.link.control(MAIN_STREAM, StreamControl::Signal { signal }).await;
        sent.map_err(|error| self.failed("signal", error))
    }

    async fn kill(&self) -> Result<(), DriverError> {
        self.ask("kill", Ask::Kill).await.map(drop)
    }

    async fn pause(&self) -> Result<(), DriverError> {
        self.ask("pause", Ask::Pause).await.map(drop)
    }

    async fn resume(&self) -> Result<(), DriverError> {
        self.ask("resume", Ask::Resume).await.map(drop)
    }

    async fn exec(&self, exec: ExecSpec) -> Result<ExecStreams, DriverError> {
        exec::start(Arc::clone(&self.link), &exec).await.map_err(|error| match error {
            ExecError::Refused(reason) => DriverError::Refused { machine: self.id, reason },
            ExecError::Link(error) => self.failed("run a command", error),
        })
    }

    async fn stats(&self) -> Result<Stats, DriverError> {
        match self.ask("measure", Ask::Stats).await? {
            Answer::Stats(stats) => Ok(Stats {
                memory_bytes: stats.memory_bytes,
                cpu_time: Duration::from_nanos(stats.cpu_nanoseconds),
                processes: stats.processes,
            }),
            _ => Err(self.unexpected("measure")),
        }
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>, DriverError> {
        let Answer::Processes { processes } = self.ask("list processes", Ask::Processes).await? else {
            return Err(self.unexpected("list processes"));
        };
        let info = |process: atoll_guest_protocol::process::ProcessInfo| ProcessInfo {
            pid: process.pid,
            command: process.command,
            directory: process.directory,
            cpu: process.cpu,
            rss: process.rss,
            running_for: process.running_for,
        };
        Ok(processes.into_iter().map(info).collect())
    }
}
