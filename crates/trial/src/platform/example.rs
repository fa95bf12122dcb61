//! The examples as folders that users would deploy: `hello` in releases of every kind, the others as
//! they are shipped.

use std::fmt::Write;
use std::path::Path;

use anyhow::ensure;
use tempfile::TempDir;

use super::{Platform, Said};
use crate::programs;

/// How the examples' fly.toml say when machines stop.
const SHIPPED_IDLE: &str = "idle_timeout = \"5m\"";

/// A release of the example app: its knobs, and how soon it stops when idle.
#[derive(Clone, Debug, Default)]
pub struct Release<'a> {
    /// What each answer calls it.
    pub name: &'a str,
    pub env: &'a [(&'a str, &'a str)],
    /// Such as `3s`; machines without it stay up.
    pub idle: Option<&'a str>,
    /// More for the command line, such as `--detach`.
    pub flags: &'a [&'a str],
}

/// An example as it is shipped, with its app's name.
#[derive(Clone, Debug)]
pub struct Shipped<'a> {
    pub example: &'a str,
    pub app: &'a str,
    /// `NAME=value`
    pub secrets: &'a [&'a str],
    /// How soon its machines stop, such as `3s`.
    pub idle: &'a str,
}

impl Release<'_> {
    /// Its fly.toml.
    pub fn manifest(&self, app: &str) -> String {
        let mut env = format!("HELLO_RELEASE = {:?}\n", self.name);
        for (name, value) in self.env {
            // Writing to a String cannot fail.
            writeln!(env, "{name} = {value:?}").ok();
        }
        let idle = match self.idle {
            Some(idle) => format!("auto_stop_machines = \"stop\"\nidle_timeout = {idle:?}\n"),
            None => "auto_stop_machines = \"off\"\n".to_owned(),
        };
        format!(
            r#"app = "{app}"
primary_region = "ams"

[env]
{env}
[deploy]
wait_timeout = "6s"

[http_service]
internal_port = 8080
auto_start_machines = true
min_machines_running = 0
{idle}
[http_service.concurrency]
type = "requests"
soft_limit = 200

[[http_service.checks]]
path = "/healthz"
interval = "1s"
timeout = "1s"
grace_period = "1s"
"#
        )
    }
}

impl Platform {
    /// Types `atoll deploy` in a folder with a release's fly.toml.
    pub async fn deploy(&self, app: &str, release: &Release<'_>, regions: &[&str]) -> anyhow::Result<Said> {
        let folder = TempDir::new()?;
        std::fs::write(folder.path().join("fly.toml"), release.manifest(app))?;
        let image = programs::example_image("hello")?;
        let image = image.display().to_string();
        let mut arguments = vec!["deploy", "-a", app, "--image", &image];
        arguments.extend(release.flags);
        arguments.extend(regions.iter().flat_map(|region| ["-r", region]));
        self.atoll(Path::new(folder.path()), &arguments).await
    }

    /// Follows the README of an example: creates the app, imports the image, sets secrets, deploys. The
    /// fly.toml is the shipped one, but for how soon machines stop.
    pub async fn deploy_shipped(&self, shipped: &Shipped<'_>) -> anyhow::Result<Said> {
        self.client().app_create(shipped.app, "personal").await?;
        self.import_example(shipped.example, &format!("{}/web:latest", shipped.app)).await?;
        let source = programs::checkout().join("examples").join(shipped.example).join("fly.toml");
        let idle = format!("idle_timeout = {:?}", shipped.idle);
        let manifest = std::fs::read_to_string(source)?.replace(SHIPPED_IDLE, &idle);
        let folder = TempDir::new()?;
        std::fs::write(folder.path().join("fly.toml"), manifest)?;
        for secret in shipped.secrets {
            let said = self.atoll(folder.path(), &["secrets", "set", secret]).await?;
            ensure!(said.code == Some(0), "{said:?}");
        }
        self.atoll(folder.path(), &["deploy", "-r", "ams"]).await
    }
}
