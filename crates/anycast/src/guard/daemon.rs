//! bird as a process: started so that it dies with us, and watched.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::{Attempt, GuardError};
use crate::bird::control::{Control, ControlError};

/// A daemon that does not listen after this long is broken.
pub const START_LIMIT: Duration = Duration::from_secs(5);

/// A running bird, our child.
pub struct Daemon {
    pub pid: Pid,
    pub started: Duration,
    socket: PathBuf,
    control: Option<Control>,
}

impl Daemon {
    /// Starts bird in the foreground, scheduled as we are.
    pub fn start(program: &Path, config: &Path, socket: &Path, now: Duration) -> Result<Self, GuardError> {
        let mut command = Command::new(program);
        command.arg("-f").arg("-c").arg(config).arg("-s").arg(socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
        let parent = rustix::process::getpid();
        let tie = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // We may have died before the tie was made.
            if rustix::process::getppid() != Some(parent) {
                return Err(rustix::io::Errno::SRCH.into());
            }
            Ok(())
        };
        // SAFETY: between fork and exec only two system calls are made; they neither allocate nor lock.
        let spawned = unsafe { command.pre_exec(tie) }.spawn();
        let child = spawned.attempting(|| format!("start {}", program.display()))?;
        let pid = Pid::from_child(&child);
        Ok(Self::adopt(pid, socket, now))
    }

    /// Takes over a bird that an older program of this process started.
    pub fn adopt(pid: Pid, socket: &Path, started: Duration) -> Self {
        Self { pid, started, socket: socket.to_owned(), control: None }
    }

    /// How it ended, once it has.
    pub fn ended(&self) -> Result<Option<WaitStatus>, GuardError> {
        let waited = rustix::process::waitpid(Some(self.pid), WaitOptions::NOHANG);
        Ok(waited.attempting(|| "wait for bird".to_owned())?.map(|(_, status)| status))
    }

    /// The conversation with it; begun anew after anything went wrong.
    pub fn control(&mut self) -> Result<&mut Control, ControlError> {
        let control = match self.control.take() {
            Some(control) => control,
            None => Control::connect(&self.socket)?,
        };
        Ok(self.control.insert(control))
    }

    /// Forgets a conversation in which something went wrong.
    pub fn hang_up(&mut self) {
        self.control = None;
    }

    pub fn signal(&self, signal: Signal) -> Result<(), GuardError> {
        match rustix::process::kill_process(self.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).attempting(|| "signal bird".to_owned()),
        }
    }
}
