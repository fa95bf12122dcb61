//! A speaker's bird: a process in its host, in the foreground, with its files outside of the host's disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use tokio::process::{Child, Command};

use super::config::{self, SERVICE};
use crate::address::Port;
use crate::error::{Attempt, LabError};
use crate::world::Speaker;

/// A client call of bird's; it answers at once.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Where Debian puts the programs.
const PLACES: &[&str] = &["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// A running daemon; dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    process: Child,
    socket: PathBuf,
}

/// The host in which a daemon is started.
pub struct Home<'a> {
    pub program: &'a Path,
    pub first: Pid,
    pub group: &'a Path,
    /// For configuration and socket.
    pub folder: PathBuf,
    /// For its log.
    pub logs: &'a Path,
}

impl Daemon {
    pub fn start(home: &Home<'_>, port: Port, speaker: &Speaker, bfd: Duration) -> Result<Self, LabError> {
        fs::create_dir_all(&home.folder).attempting(|| format!("make {}", home.folder.display()))?;
        let (config, socket) = (home.folder.join("bird.conf"), home.folder.join("bird.sock"));
        fs::write(&config, config::render(port, speaker, bfd)).attempting(|| format!("write {}", config.display()))?;
        let log = home.logs.join("bird.log");
        let log =
            File::options().create(true).append(true).open(&log).attempting(|| format!("open {}", log.display()))?;
        let process = Command::new(home.program)
            .args(["internal", "enter", "--real-time", &home.first.as_raw_nonzero().to_string()])
            .arg(home.group)
            .arg("--")
            .arg(find("bird")?)
            .arg("-f")
            .arg("-c")
            .arg(&config)
            .arg("-s")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .attempting(|| "start bird".to_owned())?;
        Ok(Self { process, socket })
    }

    /// Whether it has ended by itself.
    pub fn is_dead(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Lets an announcing node go on or stop announcing.
    pub async fn announce(&self, announced: bool) -> Result<(), LabError> {
        let verb = if announced { "enable" } else { "disable" };
        let command = format!("birdc {verb} {SERVICE}");
        let call = Command::new(find("birdc")?).arg("-s").arg(&self.socket).args([verb, SERVICE]).output();
        let output = tokio::time::timeout(CALL_LIMIT, call)
            .await
            .map_err(|_| LabError::Tool { command: command.clone(), told: format!("silent for {CALL_LIMIT:?}") })?
            .attempting(|| "start birdc".to_owned())?;
        let told = String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ");
        if output.status.success() { Ok(()) } else { Err(LabError::Tool { command, told }) }
    }
}

/// The daemon's programs lie where ordinary users' paths do not lead.
fn find(program: &str) -> Result<PathBuf, LabError> {
    PLACES.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.is_file()).ok_or_else(|| {
        LabError::Invalid(format!(
            "a world of autonomous systems needs {program} (package bird2), which is not installed"
        ))
    })
}
