//! A living host as the lab holds it: the keeper process and the first process in the namespaces.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::setup::Furniture;
use crate::error::{Attempt, LabError};
use crate::network::Network;
use crate::vm::machine::Machine;

/// A host that takes longer than this to boot is broken.
const BOOT_LIMIT: Duration = Duration::from_secs(20);

/// The processes of a living host.
#[derive(Debug)]
pub struct Body {
    /// The first process, in the lab's own numbering.
    pub first: Pid,
    keeper: Child,
    /// Closing it ends the host.
    _lifeline: Option<ChildStdin>,
    /// Of a virtual machine, its folder.
    guest: Option<PathBuf>,
}

impl Body {
    /// Makes a host with namespaces of its own; its network is still empty.
    pub async fn boot(program: &Path, furniture: &Furniture, log: &Path) -> Result<Self, LabError> {
        let description = serde_json::to_string(furniture);
        Self::keep(program, "host", &furniture.name, description, log).await
    }

    /// Starts a virtual machine; its system has yet to start.
    pub async fn boot_guest(program: &Path, machine: &Machine, log: &Path) -> Result<Self, LabError> {
        let description = serde_json::to_string(machine);
        let mut body = Self::keep(program, "vm", &machine.name, description, log).await?;
        body.guest = Some(machine.folder.clone());
        Ok(body)
    }

    /// Whose network this is, for the commands that configure it.
    pub fn network<'a>(&'a self, program: &'a Path) -> Network<'a> {
        match &self.guest {
            Some(folder) => Network::Guest { program, folder },
            None => Network::Process(self.first),
        }
    }

    async fn keep(
        program: &Path,
        helper: &str,
        name: &str,
        description: serde_json::Result<String>,
        log: &Path,
    ) -> Result<Self, LabError> {
        let host = || name.to_owned();
        let log =
            File::options().create(true).append(true).open(log).attempting(|| format!("open {}", log.display()))?;
        let description = description.map_err(|error| LabError::Boot { host: host(), told: error.to_string() })?;
        let mut keeper = Command::new(program)
            .args(["internal", helper, &description])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .attempting(|| format!("start {}", program.display()))?;
        let lifeline = keeper.stdin.take();
        let output = keeper.stdout.take().into_iter().map(BufReader::new).next();
        let mut line = String::new();
        if let Some(mut output) = output {
            tokio::time::timeout(BOOT_LIMIT, output.read_line(&mut line))
                .await
                .map_err(|_| LabError::Boot { host: host(), told: format!("silent for {BOOT_LIMIT:?}") })?
                .attempting(|| format!("read from the keeper of {name}"))?;
        }
        let first = line.trim().strip_prefix("ready ").and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        let first = first.ok_or_else(|| LabError::Boot { host: host(), told: line.trim().to_owned() })?;
        Ok(Self { first, keeper, _lifeline: lifeline, guest: None })
    }

    /// A power cut: returns once nothing of the host runs any more. `thaw` is called after the kill,
    /// because the frozen die only when thawed.
    pub async fn kill(mut self, thaw: impl FnOnce()) -> Result<(), LabError> {
        match rustix::process::kill_process(self.first, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error).attempting(|| "kill the host's first process".to_owned()),
        }
        thaw();
        self.keeper.wait().await.attempting(|| "wait for the host's keeper".to_owned())?;
        Ok(())
    }

    /// Whether the host has died by itself.
    pub fn is_dead(&mut self) -> bool {
        !matches!(self.keeper.try_wait(), Ok(None))
    }
}
