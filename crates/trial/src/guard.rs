//! A guard on trial: the real program and a real bird on a node, and the router that it announces to.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::process::Child;

use atoll_lab::Host;
use atoll_lab::routes::{RouteChange, RouteWatch};

use crate::programs;
use crate::wait::until;

/// What is announced: it covers the address at which edges serve.
pub const PREFIX: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 51, 100, 0), 24);
/// Addresses of apps that may be told one by one, to those who take such routes.
pub const APP_PREFIX: &str = "203.0.113.0/27";
/// One of them.
pub const APP_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// A network with a node, two others behind it, and a client. The sessions are the node's own affair.
pub const WORLD: &str = r#"
[defaults]
links = "listed"
[[as]]
number = 65001
name = "platform"
[[as]]
number = 64512
name = "east"
[[as]]
number = 64513
name = "west"

[[host]]
name = "ams"
city = "ams"
role = "node"
as = 65001
[[host]]
name = "east"
city = "ams"
role = "router"
as = 64512
[[host]]
name = "west"
city = "lhr"
role = "router"
as = 64513
[[host]]
name = "berlin"
city = "Berlin"
role = "client"

[[link]]
a = "west"
b = "east"
peering = "transit"
[[link]]
a = "east"
b = "ams"
password = "between-us"
[[link]]
a = "west"
b = "berlin"
"#;

/// Until a session is made or made again, and a place announced, on a busy machine.
pub const ANNOUNCED_LIMIT: Duration = Duration::from_secs(30);

/// How often neighbours look for each other here.
pub const BFD_MS: u32 = 60;

/// A guard that runs in a node's host.
pub struct Guard {
    node: Host,
    neighbour: Host,
    program: PathBuf,
    folder: PathBuf,
    plan: Value,
    process: Child,
}

impl Guard {
    /// Starts a guard that announces [`PREFIX`] to a neighbouring router as long as the node's edge serves.
    pub async fn start(node: &Host, neighbour: &Host) -> anyhow::Result<Self> {
        Self::start_towards(node, neighbour, 64512, Some("between-us")).await
    }

    /// [`Self::start`], with the neighbour's number and the session's secret.
    pub async fn start_towards(
        node: &Host,
        neighbour: &Host,
        system: u32,
        password: Option<&str>,
    ) -> anyhow::Result<Self> {
        let disk = node.disk()?;
        let program = disk.join("atoll-guard");
        replace_program(&program)?;
        // Where the node's worker looks for its report.
        let folder = disk.join("state/guard");
        // What an earlier guard on this disk remembers is another trial's.
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        let (own, neighbour_address) = (node.ipv4()?, neighbour.ipv4()?);
        let plan = json!({
            "generation": 1,
            "router_id": own,
            "system": 65001,
            "bfd": {"interval_ms": BFD_MS, "multiplier": 3},
            "upstreams": [{
                "name": neighbour.name(), "address": neighbour_address, "system": system, "own": own,
                "password": password, "host_routes": true,
            }],
            "prefixes": [format!("{}/{}", PREFIX.0, PREFIX.1)],
            "local": [APP_PREFIX],
            "edge": {"address": "127.0.0.1:80", "pid_file": disk.join("state/run/edge.pid")},
            "fleet": {"places": 3, "relieved": 0},
        });
        write_whole(&folder.join("plan.json"), plan.to_string().as_bytes())?;
        let process = spawn(node, &program, &folder)?;
        let (node, neighbour) = (node.clone(), neighbour.clone());
        Ok(Self { node, neighbour, program, folder, plan, process })
    }

    /// Starts the guard anew: it knows of no earlier flap.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.kill().await?;
        self.process = spawn(&self.node, &self.program, &self.folder)?;
        Ok(())
    }

    /// The plan that was written last.
    pub fn plan(&self) -> &Value {
        &self.plan
    }

    /// Writes the next plan.
    pub fn change_plan(&mut self, change: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
        change(&mut self.plan);
        let generation = self.plan["generation"].as_u64().unwrap_or_default() + 1;
        self.plan["generation"] = json!(generation);
        self.write_plan(self.plan.to_string().as_bytes())
    }

    /// Puts anything in the place of the plan.
    pub fn write_plan(&self, text: &[u8]) -> anyhow::Result<()> {
        write_whole(&self.plan_file(), text)
    }

    pub fn plan_file(&self) -> PathBuf {
        self.folder.join("plan.json")
    }

    /// What the guard says of itself.
    pub fn report(&self) -> anyhow::Result<Value> {
        let file = self.folder.join("announcements.json");
        Ok(serde_json::from_slice(&std::fs::read(&file).with_context(|| format!("read {}", file.display()))?)?)
    }

    /// A process that the report names, by the host's numbering.
    pub fn pid(&self, key: &str) -> anyhow::Result<u32> {
        let pid = self.report()?[key].as_u64().with_context(|| format!("the report names no {key}"))?;
        Ok(u32::try_from(pid)?)
    }

    /// Sends a signal to a process of the node.
    pub async fn signal(&self, pid: u32, signal: &str) -> anyhow::Result<()> {
        let status = self.node.command("kill")?.args(["-s", signal, &pid.to_string()]).status().await?;
        ensure!(status.success(), "cannot send {signal} to {pid}");
        Ok(())
    }

    /// Waits until the neighbour's kernel has the route to this node.
    pub async fn announced(&self) -> anyhow::Result<()> {
        let (address, _) = PREFIX;
        let via = self.node.ipv4()?;
        until("the neighbour's kernel has the route", ANNOUNCED_LIMIT, async || {
            let found = next_hop(&self.neighbour, address).await?;
            ensure!(found == Some(via), "it has {found:?}, the guard says {:?}", self.report());
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Puts another copy of the program where the guard's lies, and asks the guard to take it up.
    pub async fn upgrade(&self) -> anyhow::Result<()> {
        replace_program(&self.program)?;
        self.signal(self.pid("pid")?, "USR2").await
    }

    /// Whether the guard runs the program that lies there now.
    pub fn runs_latest(&self) -> anyhow::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let first = self.node.status()?.pid.context("the node is down")?;
        let running = format!("/proc/{first}/root/proc/{}/exe", self.pid("pid")?);
        Ok(std::fs::metadata(running)?.ino() == std::fs::metadata(&self.program)?.ino())
    }

    /// Watches the neighbour's kernel.
    pub async fn watch(&self) -> anyhow::Result<RouteWatch> {
        Ok(RouteWatch::begin(&self.neighbour).await?)
    }

    /// The guard's log.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.node.status()?.logs.join("guard.log"))?)
    }
}

/// Does something, and gives the time from just before it until the neighbour's kernel has lost a route.
pub async fn time_until_gone(
    watch: &mut RouteWatch,
    address: Ipv4Addr,
    act: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    time_until(watch, |change| is_about(change, address) && change.deleted, act).await
}

/// The same, until the neighbour's kernel has another route, or none.
pub async fn time_until_changed(
    watch: &mut RouteWatch,
    address: Ipv4Addr,
    act: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    time_until(watch, |change| is_about(change, address), act).await
}

async fn time_until(
    watch: &mut RouteWatch,
    wanted: impl Fn(&RouteChange) -> bool,
    act: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    act().await?;
    // What was told before is of another event.
    let change = watch.until(Duration::from_secs(20), |change| change.at >= began && wanted(change)).await?;
    Ok(change.at.saturating_duration_since(began))
}

/// Whether anything was told of a route in a time in which nothing should be.
pub async fn changed_within(watch: &mut RouteWatch, address: Ipv4Addr, time: Duration) -> Option<RouteChange> {
    watch.until(time, |change| is_about(change, address)).await.ok()
}

pub fn is_about(change: &RouteChange, address: Ipv4Addr) -> bool {
    change.address == IpAddr::V4(address)
}

/// Where a router's kernel sends what is for an address of a prefix; none without a route.
pub async fn next_hop(router: &Host, address: Ipv4Addr) -> anyhow::Result<Option<Ipv4Addr>> {
    let output = router.command("ip")?.args(["-json", "route", "get", &address.to_string()]).output().await?;
    if !output.status.success() {
        return Ok(None);
    }
    let routes: Value = serde_json::from_slice(&output.stdout)?;
    Ok(routes[0]["gateway"].as_str().map(str::parse).transpose()?)
}

fn spawn(node: &Host, program: &Path, folder: &Path) -> anyhow::Result<Child> {
    let log = node.log("guard")?;
    let mut command = node.real_time_command(program)?;
    command.arg("guard").arg("--plan").arg(folder.join("plan.json")).arg("--folder").arg(folder);
    command.arg("--served").arg(node.disk()?.join("state/edge/served.json"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    Ok(command.spawn()?)
}

/// Puts a copy of the program on trial at a path, as a package's upgrade does.
fn replace_program(path: &Path) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    std::fs::copy(programs::atoll()?, &new)?;
    Ok(std::fs::rename(&new, path)?)
}

fn write_whole(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    if std::fs::rename(&new, path).is_err() {
        bail!("cannot replace {}", path.display());
    }
    Ok(())
}
