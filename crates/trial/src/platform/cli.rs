//! The platform through its command line, as its users type it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use anyhow::ensure;
use tokio::process::Command;

use super::Platform;
use crate::programs;

/// What a command said, and how it ended.
#[derive(Clone, Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Platform {
    /// Runs `atoll` against this platform, in a folder, with no login and no environment of the caller.
    pub async fn atoll(&self, folder: &Path, arguments: &[&str]) -> anyhow::Result<Said> {
        self.atoll_as(&self.token, folder, arguments).await
    }

    /// [`Self::atoll`] with another token than the platform's first.
    pub async fn atoll_as(&self, token: &str, folder: &Path, arguments: &[&str]) -> anyhow::Result<Said> {
        let mut command = self.atoll_command(programs::atoll()?, folder);
        said(command.args(arguments).env("ATOLL_TOKEN", token)).await
    }

    /// A program's call in the surroundings of [`Platform::atoll`].
    pub fn atoll_command(&self, program: impl AsRef<OsStr>, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true).env_clear();
        command.env("ATOLL_API", self.client.base()).env("ATOLL_TOKEN", &self.token).env("HOME", folder);
        command
    }

    /// Brings an example's image in under a name.
    pub async fn import_example(&self, example: &str, name: &str) -> anyhow::Result<()> {
        let layout = programs::example_image(example)?;
        let said = self.atoll(&layout, &["image", "import", ".", name]).await?;
        ensure!(said.code == Some(0), "the image of the example {example} was not imported: {}", said.stderr);
        Ok(())
    }
}

/// Runs a command to its end.
pub async fn said(command: &mut Command) -> anyhow::Result<Said> {
    let output = command.output().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
}
