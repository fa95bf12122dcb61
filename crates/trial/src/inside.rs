//! What a machine sees of its private network: programs of the trial in the machine's network, as an app's
//! image need not have them.

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::platform::Node;
use crate::visit::Who;

/// Where the example app listens.
const PORT: u16 = 8080;

/// Inside a machine's network.
#[derive(Clone, Copy)]
pub struct Inside<'a> {
    node: &'a Node,
    machine: &'a str,
}

impl<'a> Inside<'a> {
    pub fn new(node: &'a Node, machine: &'a str) -> Self {
        Self { node, machine }
    }

    /// What a program says.
    ///
    /// # Errors
    /// Also if it fails.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.node.in_machine(self.machine, program, arguments).await?;
        ensure!(output.status.success(), "{program}: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The addresses of a private name, in order.
    pub async fn resolve(&self, name: &str) -> anyhow::Result<Vec<Ipv6Addr>> {
        let arguments = ["+short", "+timeout=1", "+tries=3", "@fdaa::3", "AAAA", name];
        let mut found: Vec<Ipv6Addr> =
            self.run("dig", &arguments).await?.lines().filter_map(|line| line.parse().ok()).collect();
        found.sort();
        Ok(found)
    }

    /// Asks the example app in another machine, by address.
    pub async fn get(&self, address: Ipv6Addr, path: &str) -> anyhow::Result<Who> {
        Ok(self.fetch(&format!("http://[{address}]:{PORT}{path}"), &[]).await?.0)
    }

    /// Asks the example app in another machine by a private name that leads to one; gives the time that the
    /// connection and the answer took.
    pub async fn get_by_name(&self, name: &str) -> anyhow::Result<(Who, Duration)> {
        self.get_by_name_at(name, PORT).await
    }

    /// [`Self::get_by_name`] at another port, such as one of an app's services.
    pub async fn get_by_name_at(&self, name: &str, port: u16) -> anyhow::Result<(Who, Duration)> {
        let found = self.resolve(name).await?;
        let [address] = found.as_slice() else { anyhow::bail!("{name} leads to {found:?}") };
        // The machine's own resolver is in its image; this program would ask the host's.
        let resolved = format!("{name}:{port}:[{address}]");
        self.fetch(&format!("http://{name}:{port}/"), &["--resolve", &resolved]).await
    }

    async fn fetch(&self, url: &str, more: &[&str]) -> anyhow::Result<(Who, Duration)> {
        let limits = ["--connect-timeout", "2", "--max-time", "30", "--write-out", "\n%{time_total}"];
        let arguments = [&["--silent", "--fail", "--globoff"][..], &limits, more, &[url]].concat();
        let said = self.run("curl", &arguments).await?;
        let (answer, seconds) = said.trim_end().rsplit_once('\n').context("curl says no time")?;
        Ok((serde_json::from_str(answer)?, Duration::try_from_secs_f64(seconds.parse()?)?))
    }
}
