//! From options to running processes: `atoll up`, and what `atoll join` ends in.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use atoll_model::address::FLYCAST_PORT;
use atoll_model::reserved::api_host;
use atoll_net::Place;
use atoll_rpc::files::write_durably;

use super::options::{ControlOptions, ServerOptions};
use super::setup;
use super::sockets::{self, Inherited};
use super::state::{NodeFile, StateDir};
use super::supervisor::{self, Plan, Process, RoleLock, User};

/// Run a server of your own: the first of a platform, or one that has joined before
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Runs in the foreground; stop it with Ctrl-C. Machines keep running and are adopted by the next start."
)]
pub struct UpCommand {
    #[command(flatten)]
    pub server: ServerOptions,
    #[command(flatten)]
    pub control: ControlOptions,
}

/// What each process of the server reads at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunFile {
    pub server: ServerOptions,
    /// Present where control runs.
    pub control: Option<ControlOptions>,
    /// Where this server really listens, also where an option said port 0.
    pub https: SocketAddr,
    pub backhaul: SocketAddr,
    pub worker_rpc: SocketAddr,
    pub mesh_rpc: SocketAddr,
    pub place: Place,
}

/// The ready file: where this server serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    pub pid: u32,
    pub node: String,
    pub region: String,
    pub api: Option<String>,
    pub rpc: Option<String>,
    pub http: String,
    pub https: String,
    pub backhaul: String,
    pub worker_rpc: String,
    pub app_domain: String,
    pub ca: String,
    pub token_file: Option<String>,
}

pub async fn up(command: UpCommand) -> anyhow::Result<()> {
    require_root()?;
    let state = StateDir(command.server.state.clone());
    std::fs::create_dir_all(state.run()).with_context(|| format!("cannot create {}", state.run().display()))?;
    let _lock = take_supervisor_lock(&state)?;
    let joined = NodeFile::load(&state)?.filter(|node| !node.runs_control);
    let (node, control) = match joined {
        Some(node) => {
            setup::make_folders(&state, &command.server)?;
            (node, None)
        }
        None => (setup::prepare_first_server(&state, &command.server, &command.control)?, Some(command.control)),
    };
    launch(state, node, command.server, control).await
}

pub fn require_root() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        bail!("a server runs machines in namespaces and cgroups and must be started as root")
    }
}

pub fn take_supervisor_lock(state: &StateDir) -> anyhow::Result<RoleLock> {
    match RoleLock::take(state, "supervisor")? {
        Ok(lock) => Ok(lock),
        Err(pid) => bail!("a server is already running on {} (process {pid})", state.0.display()),
    }
}

/// Runs the processes of a prepared server until a signal.
pub async fn launch(
    state: StateDir,
    mut node: NodeFile,
    server: ServerOptions,
    control: Option<ControlOptions>,
) -> anyhow::Result<()> {
    let grace = Duration::from_secs(server.drain_seconds);
    supervisor::end_leftovers(&state, &["control", "worker", "edge", "net"], Duration::from_secs(2))?;

    for (process, uid) in [("control", server.control_uid), ("edge", server.edge_uid), ("net", server.net_uid)] {
        supervisor::hand_over_lock(&state, process, uid)?;
    }
    let mut processes = Vec::new();
    let mut ready = Ready {
        pid: std::process::id(),
        node: node.name.to_string(),
        region: node.region.to_string(),
        api: None,
        rpc: None,
        http: String::new(),
        https: String::new(),
        backhaul: String::new(),
        worker_rpc: String::new(),
        app_domain: node.app_domain.clone(),
        ca: state.ca_certificate().display().to_string(),
        token_file: None,
    };
    // Control gathers the metrics of all processes here; where it is not, root alone reads them.
    let reader = if control.is_some() { server.control_uid } else { 0 };
    let metrics_socket = |role: &str| sockets::bind_private(&state.metrics_socket(role), reader);
    let shown = |sockets: &Inherited, name: &str| sockets.address(name).map(|a| a.to_string()).unwrap_or_default();

    if let Some(control) = &control {
        let mut sockets = Inherited::default();
        sockets.add("api", sockets::bind("api", control.api)?);
        sockets.add("rpc", sockets::bind("rpc", control.rpc)?);
        let scheme = if api_is_plain(control) { "http" } else { "https" };
        ready.api = Some(format!("{scheme}://{}", shown(&sockets, "api")));
        ready.rpc = Some(shown(&sockets, "rpc"));
        let rpc = sockets.address("rpc").context("the rpc socket has no address")?;
        node.control = setup::loopback_if_unspecified(rpc).to_string();
        node.save(&state)?;
        ready.token_file = Some(state.root_token().display().to_string());
        sockets.add("metrics", metrics_socket("control")?);
        processes.push(Process::unprivileged("control", server.control_uid, sockets));
    }
    let mut sockets = Inherited::default();
    sockets.add("worker-rpc", sockets::bind("worker-rpc", server.worker_rpc)?);
    ready.worker_rpc = shown(&sockets, "worker-rpc");
    sockets.add("metrics", metrics_socket("worker")?);
    processes.push(Process { role: "worker", user: None, sockets });

    let mut sockets = Inherited::default();
    sockets.add("http", sockets::bind("http", server.http)?);
    sockets.add("https", sockets::bind("https", server.https)?);
    sockets.add("backhaul", sockets::bind("backhaul", server.backhaul)?);
    ready.http = shown(&sockets, "http");
    ready.https = shown(&sockets, "https");
    ready.backhaul = shown(&sockets, "backhaul");
    let place = setup::private_place(&state, &node, &server)?;
    sockets.add("flycast", sockets::bind_flycast((place.address, FLYCAST_PORT).into())?);
    sockets.add("metrics", metrics_socket("edge")?);
    processes.push(Process::unprivileged("edge", server.edge_uid, sockets));

    let mut sockets = Inherited::default();
    sockets.add("mesh-rpc", sockets::bind("mesh-rpc", server.mesh_rpc)?);
    let mesh_rpc = sockets.address("mesh-rpc").context("the mesh-rpc socket has no address")?;
    let (udp, tcp) = sockets::bind_dns((place.address, 53).into())?;
    sockets.add("names-udp", udp);
    sockets.add("names-tcp", tcp);
    if let Some(at) = server.dns {
        let (udp, tcp) = sockets::bind_dns(at)?;
        sockets.add("dns-udp", udp);
        sockets.add("dns-tcp", tcp);
    }
    sockets.add("devices", sockets::bind_private(&state.devices_socket(), server.edge_uid)?);
    sockets.add("metrics", metrics_socket("net")?);
    // The interface's device file may be root's alone; this right is given up once it is open.
    let capabilities = CapabilitySet::NET_ADMIN | CapabilitySet::DAC_OVERRIDE;
    processes.push(Process { role: "net", user: Some(User { id: server.net_uid, capabilities }), sockets });
    let metrics = metrics_socket("supervisor")?;

    let bound = |address: &str| address.parse().context("a listening socket has no address");
    let run_file = RunFile {
        https: bound(&ready.https)?,
        backhaul: bound(&ready.backhaul)?,
        worker_rpc: bound(&ready.worker_rpc)?,
        mesh_rpc,
        server: server.clone(),
        control: control.clone(),
        place,
    };
    write_durably(&state.options_file(), &serde_json::to_vec_pretty(&run_file)?, false)
        .context("cannot write the options for the processes")?;
    if let Some(file) = &server.ready_file {
        supervisor::remove_stale(file)?;
    }
    let ready_file = server.ready_file.clone();
    supervisor::run(Plan { state, processes, grace, metrics }, move || announce(&ready, ready_file.as_deref())).await
}

/// Without TLS on loopback, or where the operator says so.
pub fn api_is_plain(control: &ControlOptions) -> bool {
    control.api_plain || control.api.ip().is_loopback()
}

fn announce(ready: &Ready, ready_file: Option<&std::path::Path>) {
    println!("Atoll is up: node {} in {}", ready.node, ready.region);
    if let Some(api) = &ready.api {
        println!("  API    {api}");
    }
    println!("  edge   http://{}  https://{}", ready.http, ready.https);
    println!("  apps   http://<app>.{}", ready.app_domain);
    println!("  API    https://{}, at every edge", api_host(&ready.app_domain));
    println!("  CA     {}", ready.ca);
    if let Some(token) = &ready.token_file {
        println!("  token  {token}");
    }
    if let Some(file) = ready_file {
        let written = serde_json::to_vec_pretty(ready)
            .map_err(std::io::Error::other)
            .and_then(|text| write_durably(file, &text, false));
        if let Err(error) = written {
            tracing::error!(file = %file.display(), %error, "cannot write the ready file");
        }
    }
}
