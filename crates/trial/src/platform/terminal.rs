//! `atoll` at a terminal: a pseudo-terminal, what it shows, and keys.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::process::Child;

use super::Platform;
use crate::programs;
use crate::wait::until;

/// Until what was typed shows, on a busy machine.
const LIMIT: Duration = Duration::from_secs(15);
/// Makes the program a terminal's owner, so that sizes and keys reach it as signals do.
const SETSID: &str = "/usr/bin/setsid";

/// A program at a terminal; killed when dropped.
pub struct Terminal {
    controller: File,
    program: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Platform {
    /// Starts `atoll` at a terminal of this many rows and columns.
    pub fn terminal(&self, folder: &Path, arguments: &[&str], size: (u16, u16)) -> anyhow::Result<Terminal> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&controller)?;
        let peer = ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        resize(&controller, size)?;
        let mut command = self.atoll_command(SETSID, folder);
        command.arg("--ctty").arg(programs::atoll()?).args(arguments).env("TERM", "xterm");
        let stdio = || anyhow::Ok(Stdio::from(peer.try_clone()?));
        command.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?);
        let program = command.spawn().context("cannot start a program at a terminal")?;
        let controller = File::from(controller);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, showing) = (controller.try_clone()?, shown.clone());
        // Ends with an error when the last program at the terminal has ended.
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = reader.read(&mut chunk) {
                showing.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..read]);
            }
        });
        Ok(Terminal { controller, program, shown })
    }
}

fn resize(controller: &OwnedFd, (rows, columns): (u16, u16)) -> anyhow::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(controller.as_fd(), size)?)
}

impl Terminal {
    /// Presses keys.
    pub fn keys(&mut self, keys: &str) -> anyhow::Result<()> {
        Ok(self.controller.write_all(keys.as_bytes())?)
    }

    pub fn resize(&self, size: (u16, u16)) -> anyhow::Result<()> {
        resize(&self.controller.try_clone()?.into(), size)
    }

    /// All that was shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until a text is shown.
    pub async fn shows(&self, text: &str) -> anyhow::Result<()> {
        until(&format!("the terminal shows {text:?}"), LIMIT, async || {
            let shown = self.shown();
            ensure!(shown.contains(text), "it shows {shown:?}");
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Waits until the program has ended; gives its exit code.
    pub async fn ended(mut self) -> anyhow::Result<Option<i32>> {
        let ended = tokio::time::timeout(LIMIT, self.program.wait()).await;
        let status = ended.with_context(|| format!("it does not end, and shows {:?}", self.shown()))??;
        Ok(status.code())
    }
}
