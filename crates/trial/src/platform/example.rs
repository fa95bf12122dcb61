//! The example app as a folder that users would deploy.

use std::fmt::Write;
use std::path::Path;

use tempfile::TempDir;

use super::{Platform, Said};
use crate::programs;

/// A release of the example app: its knobs, and how soon it stops when idle.
#[derive(Clone, Debug, Default)]
pub struct Release<'a> {
    /// What each answer calls it.
    pub name: &'a str,
    pub env: &'a [(&'a str, &'a str)],
    /// Such as `3s`; machines without it stay up.
    pub idle: Option<&'a str>,
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
        let image = programs::example_image()?;
        let image = image.display().to_string();
        let mut arguments = vec!["deploy", "-a", app, "--image", &image];
        arguments.extend(regions.iter().flat_map(|region| ["-r", region]));
        self.atoll(Path::new(folder.path()), &arguments).await
    }
}
