//! `atoll join`: a server asks control for its identities with a token, then runs like any other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use clap::Args;

use atoll_model::NodeName;
use atoll_rpc::ca::{signing_request, signing_request_for};
use atoll_rpc::channel::connect_anonymously;
use atoll_rpc::files::write_durably;
use atoll_rpc::join_token::JoinToken;
use atoll_rpc::proto::control::enrolment_client::EnrolmentClient;
use atoll_rpc::proto::control::{JoinReply, JoinRequest};
use atoll_rpc::tls::IdentityMaterial;
use atoll_rpc::trust::Anchor;

use super::launch::{launch, require_root, take_supervisor_lock};
use super::options::ServerOptions;
use super::setup::{make_folders, node_name, now_unix, parse_region};
use super::state::{NodeFile, StateDir, hand_over, random_hex};

/// Add this server to a platform
#[derive(Args, Clone, Debug)]
#[command(after_help = "Get a token with `atoll node token create` where control runs. It works once, for 15 minutes.")]
pub struct JoinCommand {
    /// Control's node address, such as 203.0.113.10:4281
    pub address: String,

    /// The join token; may also come from ATOLL_JOIN_TOKEN
    #[arg(long, env = "ATOLL_JOIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    #[command(flatten)]
    pub server: ServerOptions,
}

pub async fn join(command: JoinCommand) -> anyhow::Result<()> {
    require_root()?;
    let options = command.server;
    let state = StateDir(options.state.clone());
    std::fs::create_dir_all(state.run()).with_context(|| format!("cannot create {}", state.run().display()))?;
    let _lock = take_supervisor_lock(&state)?;
    let node = match NodeFile::load(&state)? {
        Some(node) if node.runs_control => {
            bail!("{} already holds a platform of its own; choose another --state", state.0.display())
        }
        Some(node) if command.token.is_none() => node,
        existing => {
            let token = command.token.as_deref().context("a server that joins needs --token")?;
            enrol(&state, &command.address, token, &options, existing).await?
        }
    };
    launch(state, node, options, None).await
}

/// Takes the token to control and keeps what comes back. A lapsed server may enrol again with a new
/// token: it keeps its instance and its machines.
async fn enrol(
    state: &StateDir,
    address: &str,
    token: &str,
    options: &ServerOptions,
    existing: Option<NodeFile>,
) -> anyhow::Result<NodeFile> {
    let token: JoinToken = token.parse()?;
    let region = parse_region(&options.region)?;
    let name: NodeName = match &existing {
        Some(node) => node.name.clone(),
        None => node_name(options.name.as_deref())?,
    };
    make_folders(state, options)?;
    // A returning node proves itself by its key: only so it may have its name again.
    let (worker_key, worker_csr) = match IdentityMaterial::load(&state.identity("worker")) {
        Ok(kept) if existing.is_some() => signing_request_for(&kept.key_pem)?,
        _ => signing_request()?,
    };
    let (edge_key, edge_csr) = signing_request()?;
    let (net_key, net_csr) = signing_request()?;
    let channel = connect_anonymously(address, Anchor::Fingerprint(token.root_fingerprint.clone())).await?;
    let request = JoinRequest {
        token: token.secret.clone(),
        node: name.to_string(),
        region: region.to_string(),
        backhaul: advertised(options, options.backhaul).to_string(),
        worker_rpc: advertised(options, options.worker_rpc).to_string(),
        worker_csr: worker_csr.into(),
        edge_csr: edge_csr.into(),
        net_csr: net_csr.into(),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_mb: host_memory_mb(),
        clock_ms: now_unix() * 1000,
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        kept_epoch: existing.as_ref().map_or(0, |node| node.epoch),
    };
    let reply: JoinReply = EnrolmentClient::new(channel)
        .join(request)
        .await
        .map_err(|status| anyhow::anyhow!("control refused: {}", status.message()))?
        .into_inner();

    for (role, key_pem, chain_pem) in [
        ("worker", worker_key, reply.worker_chain),
        ("edge", edge_key, reply.edge_chain),
        ("net", net_key, reply.net_chain),
    ] {
        IdentityMaterial { key_pem, chain_pem, roots_pem: reply.roots.clone() }.save(&state.identity(role))?;
    }
    hand_over(&state.identity("edge"), options.edge_uid)?;
    hand_over(&state.identity("net"), options.net_uid)?;
    write_durably(&state.ca_certificate(), reply.roots.as_bytes(), false).context("cannot write ca.pem")?;
    let node = NodeFile {
        platform: reply.platform,
        instance: existing.map_or_else(random_hex::<8>, |node| node.instance),
        name,
        region,
        epoch: reply.epoch,
        runs_control: false,
        control: address.to_owned(),
        app_domain: reply.app_domain,
    };
    node.save(state)?;
    Ok(node)
}

/// The address others should use; an unspecified one means "the one that control sees".
fn advertised(options: &ServerOptions, listening: SocketAddr) -> SocketAddr {
    let ip = options.advertise.unwrap_or(listening.ip());
    SocketAddr::new(if ip.is_unspecified() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { ip }, listening.port())
}

/// Memory of this host, from `/proc/meminfo`.
pub fn host_memory_mb() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}
