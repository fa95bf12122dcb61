//! Users reach control's API and registry by name at the edge near them, wherever control is.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

use atoll_lab::Host;
use atoll_trial::platform::{Origin, Platform, Role, SOON, Said, TWO_REGIONS, said};
use atoll_trial::programs;
use atoll_trial::wait::until;

use crate::support::trial_with;

const HOST: &str = "api.apps.test";
/// What a client may say of itself, and nobody believes.
const FORGED: &str = "203.0.113.9";

/// A user's computer that knows the platform's API by name alone.
struct User {
    host: Host,
    folder: PathBuf,
    token: String,
}

impl User {
    /// At a host of the world, whose resolvers are from now on the platform's servers.
    async fn at(platform: &Platform, host: &str) -> anyhow::Result<Self> {
        let host = platform.host(host)?;
        let folder = host.disk()?;
        std::fs::copy(platform.ca(), folder.join("ca.pem"))?;
        let mut resolvers = "options timeout:1 attempts:2\n".to_owned();
        for node in platform.nodes().iter().rev() {
            resolvers.push_str(&format!("nameserver {}\n", node.host().ipv4()?));
        }
        std::fs::write(folder.join("resolv.conf"), resolvers)?;
        let user = Self { host, folder, token: platform.token().to_owned() };
        let mounted = user.run("mount", &["--bind", "resolv.conf", "/etc/resolv.conf"]).await?;
        ensure!(mounted.code == Some(0), "{mounted:?}");
        Ok(user)
    }

    fn command(&self, program: &str) -> anyhow::Result<Command> {
        let mut command = self.host.command(program)?;
        command.current_dir(&self.folder).stdin(Stdio::null()).kill_on_drop(true);
        command.env("HOME", &self.folder).env("SSL_CERT_FILE", self.folder.join("ca.pem"));
        command.env("ATOLL_API", format!("https://{HOST}")).env("ATOLL_CA", self.folder.join("ca.pem"));
        command.env("ATOLL_TOKEN", &self.token);
        Ok(command)
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Said> {
        said(self.command(program)?.args(arguments)).await
    }

    async fn atoll(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        self.run(programs::atoll()?.to_str().context("an odd path")?, arguments).await
    }

    async fn ok(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let said = self.atoll(arguments).await?;
        ensure!(said.code == Some(0), "atoll {arguments:?}: {said:?}");
        Ok(said.stdout)
    }

    /// A request to the API; with the head of its answer.
    async fn curl(&self, path: &str) -> anyhow::Result<String> {
        let (authorization, forged) =
            (format!("Authorization: Bearer {}", self.token), format!("Fly-Client-IP: {FORGED}"));
        let url = format!("https://{HOST}{path}");
        let said =
            self.run("curl", &["-sS", "-i", "--cacert", "ca.pem", "-H", &authorization, "-H", &forged, &url]).await?;
        ensure!(said.code == Some(0), "curl {url}: {said:?}");
        Ok(said.stdout)
    }

    async fn reaches_the_api(&self) -> anyhow::Result<()> {
        until("the API is reached by name", SOON, async || self.ok(&["apps", "list"]).await).await?;
        Ok(())
    }
}

/// The log of a server's processes.
fn log(platform: &Platform, node: &str) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(platform.host(node)?.status()?.logs.join("atoll.log"))?)
}

#[test]
fn the_api_is_reached_by_the_nearest_edge() {
    let folder = tempfile::tempdir().unwrap();
    let zones = folder.path().join("zones.toml");
    std::fs::write(&zones, "servers = [{ name = \"ns1.example.org\" }]\n").unwrap();
    let arguments = ["--dns", "0.0.0.0:53", "--dns-zones", zones.to_str().unwrap(), "--log", "info,atoll_api=debug"];
    trial_with("far_api", TWO_REGIONS, &arguments, async |platform| {
        let user = User::at(platform, "osaka").await?;
        user.reaches_the_api().await?;
        user.ok(&["apps", "create", "site"]).await?;
        let refused = user.atoll(&["apps", "create", "api"]).await?;
        ensure!(
            refused.code == Some(1) && refused.stderr.contains("api.apps.test is the platform's own"),
            "{refused:?}"
        );

        push_and_deploy(&user).await?;
        use_machine(&user).await?;
        edges_word_is_believed(platform, &user).await?;

        // Control is gone, and so is whoever starts it again.
        let ams = platform.node_mut("ams")?;
        ams.kill_supervisor().await?;
        ams.kill(Role::Control).await?;
        let answer = user.curl("/v1/apps?org_slug=personal").await?.to_lowercase();
        let told = [" 503", "retry-after: ", "{\"error\":\"the platform's control process cannot be reached"];
        ensure!(told.iter().all(|text| answer.contains(text)), "{answer}");
        let failed = user.atoll(&["apps", "list"]).await?;
        ensure!(failed.code == Some(1) && failed.stderr.contains("cannot be reached from here"), "{failed:?}");
        platform.node_mut("ams")?.start(&Origin::First).await?;
        user.reaches_the_api().await?;

        // The edge near the user is gone.
        platform.node_mut("nrt")?.cut_power().await?;
        user.reaches_the_api().await?;
        ensure!(platform.node("ams")?.access_log()?.contains(HOST), "the other edge took it");
        Ok(())
    });
}

/// Pushes an image with a foreign tool and deploys it, by the API's name.
async fn push_and_deploy(user: &User) -> anyhow::Result<()> {
    let image = format!("{HOST}/site/web:v1");
    let layout = format!("oci:{}", programs::example_image("nginx")?.display());
    let credentials = format!("any:{}", user.token);
    let pushed = ["copy", "--dest-creds", &credentials, &layout, &format!("docker://{image}")];
    let pushed = user.run("skopeo", &[&["--insecure-policy"], &pushed[..]].concat()).await?;
    ensure!(pushed.code == Some(0), "{pushed:?}");

    let shipped = std::fs::read_to_string(programs::checkout().join("examples/nginx/fly.toml"))?;
    std::fs::write(user.folder.join("fly.toml"), shipped.replace("site/web:latest", &image))?;
    user.ok(&["deploy", "-r", "ams"]).await?;
    Ok(())
}

/// One answer, a WebSocket and a stream.
async fn use_machine(user: &User) -> anyhow::Result<()> {
    let machines: serde_json::Value = serde_json::from_str(&user.ok(&["machine", "list", "--json"]).await?)?;
    let machine = machines[0]["id"].as_str().with_context(|| format!("no machine: {machines}"))?;
    ensure!(user.ok(&["machine", "exec", machine, "--", "/bin/busybox", "echo", "far"]).await? == "far\n", "exec");
    let console = user.atoll(&["ssh", "console", "-C", "echo near; exit 9"]).await?;
    ensure!(console.code == Some(9) && console.stdout == "near\n", "{console:?}");
    until("the machine's log is shown", SOON, async || {
        ensure!(!user.ok(&["logs", "-n", "5"]).await?.is_empty(), "nothing yet");
        Ok(())
    })
    .await?;
    Ok(())
}

/// The nearest edge took all of it; control takes its word for who asks, and nobody else's.
async fn edges_word_is_believed(platform: &Platform, user: &User) -> anyhow::Result<()> {
    let address = user.host.ipv4()?;
    let answer = user.curl("/v1/apps/site").await?;
    ensure!(answer.contains("\"name\":\"site\""), "{answer}");
    let id = answer.lines().find_map(|line| line.strip_prefix("fly-request-id: ")).context("no id")?.trim();
    until("the edge's and control's logs tell of it", SOON, async || {
        let edge = platform.node("nrt")?.access_log()?;
        ensure!(edge.lines().any(|line| line.contains(id) && line.contains(HOST)), "the edge's log has no {id}");
        let control = log(platform, "ams")?;
        let line = control.lines().find(|line| line.contains(id)).with_context(|| format!("control's has no {id}"))?;
        ensure!(line.contains(&address.to_string()), "{line}");
        Ok(())
    })
    .await?;
    ensure!(!log(platform, "ams")?.contains(FORGED), "a forged address is believed");
    ensure!(!platform.node("ams")?.access_log()?.contains(HOST), "the far edge was asked, too");
    Ok(())
}
