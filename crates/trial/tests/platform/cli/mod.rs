//! The command line as people and programs use it, against the real thing.

mod addresses;
mod console;
mod egress;
mod records;
mod steering;
mod usage;

use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use atoll_trial::platform::{Platform, Said, Shipped, said};
use atoll_trial::programs;

/// Somebody who types in a folder.
struct User<'a> {
    platform: &'a Platform,
    folder: TempDir,
}

impl<'a> User<'a> {
    fn of(platform: &'a Platform) -> anyhow::Result<Self> {
        Ok(Self { platform, folder: TempDir::new()? })
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn types(&self, words: &[&str]) -> anyhow::Result<Said> {
        self.platform.atoll(self.folder(), words).await
    }

    /// A command whose input is what a line of shell writes.
    async fn pipes(&self, writer: &str, words: &[&str]) -> anyhow::Result<Said> {
        let mut command = self.platform.atoll_command("sh", self.folder());
        let line = format!("{writer} | \"$@\"");
        command.env("PATH", "/usr/bin:/bin").args(["-c", &line, "sh"]).arg(programs::atoll()?).args(words);
        said(&mut command).await
    }

    /// A command that does what it says; gives its output.
    async fn ok(&self, words: &[&str]) -> anyhow::Result<String> {
        let said = self.types(words).await?;
        ensure!(said.code == Some(0), "{words:?}: {said:?}");
        Ok(said.stdout)
    }

    /// A command's data as programs see it.
    async fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let said = self.types(&[words, &["--json"]].concat()).await?;
        ensure!(said.code == Some(0), "{words:?}: {said:?}");
        serde_json::from_str(&said.stdout).with_context(|| format!("{words:?} says no JSON: {:?}", said.stdout))
    }

    /// A command that ends with a code; gives what it says about it.
    async fn fails(&self, code: i32, words: &[&str]) -> anyhow::Result<String> {
        let said = self.types(words).await?;
        ensure!(said.code == Some(code), "{words:?} should end with {code}: {said:?}");
        ensure!(said.stdout.is_empty(), "{words:?} failed and has data: {said:?}");
        Ok(said.stderr)
    }
}

/// An app with a shell in it.
async fn deploy_site(platform: &Platform, secrets: &[&str]) -> anyhow::Result<String> {
    let shipped = Shipped { example: "nginx", app: "site", secrets, idle: "5m" };
    let said = platform.deploy_shipped(&shipped).await?;
    ensure!(said.code == Some(0), "{said:?}");
    ensure!(said.stderr.contains("served as site."), "{said:?}");
    let machines = platform.client().machines("site").await?;
    Ok(machines.first().context("site has no machine")?.id.to_string())
}
