//! The net process: this server's end of the mesh, the DNS server of its machines and, if the operator says
//! so, one of the platform's public ones. What all do follows from this process's own copy of the catalogue.

mod devices;
mod following;
mod metrics;
mod public;
mod report;
mod resume;
mod secrets;
mod websocket;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use rustix::thread::CapabilitySet;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use atoll_catalogue::watch::ReplicaHandle;
use atoll_dns::forward::Forwarder;
use atoll_dns::internal::{Here, Internal, Recursion, View};
use atoll_dns::serve::{Allowance, Server};
use atoll_keyring::{FileKeys, Keyring};
use atoll_mesh::probe::{self, Prober};
use atoll_mesh::{Backend, Made, MeshError, PrivateKey, Settings, kernel, link_mtu};
use atoll_model::reach::Reachability;
use atoll_model::row::NodeRow;
use atoll_net::links::Links;
use atoll_net::peers::Wanted;
use atoll_net::routes::Routes;
use atoll_net::secrets::End;
use atoll_net::secrets::held::Secrets;
use atoll_net::ways::Ways;
use atoll_net::{Place, key, resolvers};
use atoll_resume::Party;
use atoll_rpc::channel::connect;
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::proto::control::nodes_client::NodesClient;
use atoll_rpc::proto::control::{EnterNetworkRequest, MeshEnd};
use atoll_rpc::server::accept;

use self::following::Following;
use self::public::PublicZones;
use self::report::Reporter;
use self::resume::{Asking, Resumption, TicketService};
use self::secrets::{Agreement, Leading, MeshService};
use super::renewal::renew_forever;
use super::replica::{Kept, SAVE_EVERY};
use super::{Common, asked_to_end, runtime};
use crate::node::sockets::Handed;
use crate::node::state::NodeFile;
use crate::node::{metrics as own_metrics, sockets, supervisor};

/// Where the process says on its private socket how the mesh is.
pub const MESH_PATH: &str = "/mesh";
pub use devices::DEVICES_PATH;
/// What links between servers nearly always carry.
const UNDERLAY_MTU: u16 = 1500;
/// How often names are answered by fresh probes.
const REACH_EVERY: Duration = Duration::from_millis(500);
/// Before control is told again who we are in the mesh.
const ENTER_AGAIN: Duration = Duration::from_secs(2);
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The process of an earlier start may be ending still: it gives its lock up first, then its interfaces, which
/// take their time, and then its ports.
const PORT_FREE_WITHIN: Duration = Duration::from_secs(5);
const PORT_TRIED_EVERY: Duration = Duration::from_millis(20);

/// Makes the link and reads the operator's files first, which takes a right that nothing after it has.
pub fn run(common: Common) -> anyhow::Result<()> {
    let Common { node, run, .. } = &common;
    let private_key = key::load_or_create(&common.state.mesh_key())?;
    let Place { link, port, .. } = &run.place;
    let without = "this server is not part of the mesh: its machines do not reach those of other servers";
    let mesh = make_link(link, *port, &private_key, without)
        .context("cannot join the mesh; another UDP port can be given with --mesh-port")?;
    let devices = devices::make(&common.state, &run.place)?;
    let options = &run.server;
    let zones =
        options.dns.map(|_| PublicZones::read(options.dns_zones.as_deref(), &options.public_address, &node.app_domain));
    let zones = zones.transpose()?;
    supervisor::keep_only(CapabilitySet::NET_ADMIN).context("cannot give up privileges")?;
    runtime(1)?.block_on(serve(common, private_key, MadeLinks { mesh, devices }, zones))
}

/// The links of this process, made and not carrying yet.
struct MadeLinks {
    mesh: Option<Made>,
    devices: Option<devices::Making>,
}

/// None where this host has no such links at all: `without` says what that means.
fn make_link(link: &str, port: u16, private_key: &PrivateKey, without: &str) -> anyhow::Result<Option<Made>> {
    let settings = Settings {
        link: link.to_owned(),
        listen_port: port,
        mtu: link_mtu(UNDERLAY_MTU),
        private_key: private_key.clone(),
    };
    kernel::delete_leftover(link)?;
    let began = Instant::now();
    loop {
        match atoll_mesh::make(&settings) {
            Ok(made) => return Ok(Some(made)),
            Err(error @ MeshError::Link { .. }) => {
                tracing::error!(error = &error as &dyn std::error::Error, "{without}");
                return Ok(None);
            }
            Err(MeshError::Listen { source, .. })
                if source.kind() == ErrorKind::AddrInUse && began.elapsed() < PORT_FREE_WITHIN =>
            {
                std::thread::sleep(PORT_TRIED_EVERY);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn serve(
    common: Common,
    private_key: PrivateKey,
    made: MadeLinks,
    zones: Option<PublicZones>,
) -> anyhow::Result<()> {
    let mut handed = sockets::take()?;
    let Common { state, node, run, live, .. } = &common;
    let control = connect(live, node.control.clone(), Expected::Role(Role::Control))?;
    let mut kept = Kept::start(&common, "net", control.clone())?;
    let replica = kept.replica.clone();

    let routes = Routes::open(&run.place)?;
    routes.prepare().await?;
    let reach = Arc::new(ArcSwap::<Reachability>::default());
    let peers = Arc::new(ArcSwap::<Wanted>::default());
    let secrets = Arc::new(open_secrets(&state.role("net"))?);
    let mut resumption = None;
    let mut ways = None;
    let backend = match made.mesh {
        Some(made) => {
            let backend = carry(made)?;
            let own = Party { node: node.name.clone(), mesh_key: private_key.public().0 };
            resumption = Resumption::start_if_possible(&backend, own, run.server.mesh_resume_port, &state.role("net"));
            routes.lead_into_link().await?;
            secrets.lead_into(backend.clone());
            let prober = Prober::start((run.place.address, probe::PORT).into(), reach.clone())
                .context("cannot probe the ways to other servers")?;
            let following = Following {
                links: Links::new(backend.clone(), private_key.clone(), secrets.clone()),
                own: private_key.public(),
                node: node.name.clone(),
                replica: replica.clone(),
                peers: peers.clone(),
                prober,
            };
            following.start()?;
            ways = find_ways(&backend, &private_key, &peers, &reach);
            Some(backend)
        }
        None => None,
    };
    let devices = match made.devices {
        Some(made) => made.start(&routes, &run.place, &node.name, &replica).await?,
        None => None,
    };
    if let Some((devices, socket)) = devices.as_ref().zip(sockets::unix_listener(&mut handed, "devices")) {
        websocket::serve(socket, devices.port())?;
    }
    let entered = EnterNetworkRequest {
        mesh: backend.as_ref().map(|backend| MeshEnd {
            public_key: private_key.public().to_string(),
            port: u32::from(backend.listen_port()),
            rpc_port: u32::from(run.mesh_rpc.port()),
        }),
        public_addresses: run.server.public_address.iter().map(ToString::to_string).collect(),
        gateway: devices.as_ref().map(|devices| devices.end(run.https.port())),
    };
    tokio::spawn(stay_entered(entered, node.clone(), control.clone(), replica.clone()));

    let mut serving = JoinSet::new();
    let mesh_rpc = sockets::tokio_listener(&mut handed, "mesh-rpc")?;
    if backend.is_some() {
        let own = End { node: node.name.clone(), key: private_key.public() };
        let agreement = Agreement { own, secrets: secrets.clone(), peers: peers.clone(), live: live.clone() };
        tokio::spawn(Leading { agreement: agreement.clone(), reach: reach.clone() }.run());
        let connections = accept(mesh_rpc, live.server_config(false)?, live.trust().clone());
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .add_service(MeshService::server(agreement))
            .add_optional_service(resumption.clone().map(|resumption| TicketService::server(resumption, peers.clone())))
            .serve_with_incoming(connections);
        serving.spawn(async { server.await.map_err(std::io::Error::other) });
    }
    if let Some(resumption) = resumption.clone() {
        tokio::spawn(Asking { resumption, peers: peers.clone(), live: live.clone() }.run());
    }

    let stop = CancellationToken::new();
    let here = Here { node: node.name.clone(), region: node.region };
    let names = Names { replica: replica.clone(), reach: reach.clone(), here };
    let internal = Arc::new(Internal::new(names.view(), recursion(Path::new(RESOLV_CONF))));
    let server = Server::new(internal.clone(), Allowance::PRIVATE);
    let counters = server.counters();
    answer(&mut serving, server, &mut handed, ["names-udp", "names-tcp"], &stop)?;
    tokio::spawn(names.clone().follow(move |names| internal.publish(names.view())));
    if let Some(zones) = zones {
        let (public, view) = zones.into_responder(&names);
        let server = Server::new(public.clone(), Allowance::PUBLIC);
        answer(&mut serving, server, &mut handed, ["dns-udp", "dns-tcp"], &stop)?;
        tokio::spawn(atoll_dns::public::follow(public.clone(), stop.clone()));
        tokio::spawn(names.follow(move |names| public.publish(view(names))));
    }
    tokio::spawn(renew_forever(live.clone(), control, state.identity("net")));
    if let Some(socket) = sockets::unix_listener(&mut handed, "metrics") {
        let report = Reporter {
            backend: backend.clone(),
            peers,
            reach: reach.clone(),
            secrets,
            ways: ways.clone(),
            live: live.clone(),
            mtu: link_mtu(UNDERLAY_MTU),
        };
        let sources = metrics::sources(backend, reach, ways, replica, counters, resumption);
        let devices = devices.map(devices::Devices::into_router).unwrap_or_default();
        own_metrics::serve_beside("net", socket, sources, report.into_router().merge(devices))?;
    }
    supervisor::say_ready();

    let mut save = tokio::time::interval(SAVE_EVERY);
    let ended = asked_to_end();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            ended = &mut ended => break ended?,
            Some(ended) = serving.join_next() => ended?.context("DNS or other servers are not answered any more")?,
            _ = save.tick() => kept.save(),
        }
    }
    stop.cancel();
    kept.end().await
}

/// Begins to carry packets.
fn carry(made: Made) -> anyhow::Result<Arc<dyn Backend>> {
    let opened = made.start().context("cannot begin to carry packets in the mesh")?;
    tracing::info!(backend = %opened.backend.kind(), reason = opened.reason, port = opened.backend.listen_port(), "part of the mesh");
    Ok(Arc::from(opened.backend))
}

/// Measures the ways to other servers, and relays. Without it all packets go directly, as well as they can.
fn find_ways(
    backend: &Arc<dyn Backend>,
    private_key: &PrivateKey,
    peers: &Arc<ArcSwap<Wanted>>,
    reach: &Arc<ArcSwap<Reachability>>,
) -> Option<Arc<Ways>> {
    match Ways::start(backend.clone(), private_key.clone(), peers.clone(), reach.clone()) {
        Ok(ways) => Some(Arc::new(ways)),
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "packets take no way over other servers, nor are theirs relayed"
            );
            None
        }
    }
}

/// The secrets that an earlier process shared with other servers.
fn open_secrets(folder: &Path) -> anyhow::Result<Secrets> {
    let keys = FileKeys::open_or_create(&folder.join("root.key")).context("cannot open the key of the net process")?;
    Ok(Secrets::open(&folder.join("secrets"), Keyring::new(Arc::new(keys))))
}

/// Answers at both sockets of one address.
fn answer(
    serving: &mut JoinSet<std::io::Result<()>>,
    server: Server,
    handed: &mut Handed,
    [udp, tcp]: [&str; 2],
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    serving.spawn(server.clone().udp(sockets::udp_socket(handed, udp)?, stop.clone()));
    serving.spawn(server.tcp(sockets::tcp_listener(handed, tcp)?, stop.clone()));
    Ok(())
}

/// Sees to it that everybody knows where this server is: whenever the catalogue says otherwise, also after
/// control's records were restored from an old backup, control is told.
async fn stay_entered(entered: EnterNetworkRequest, node: NodeFile, control: Channel, replica: ReplicaHandle) {
    let mut changes = replica.subscribe();
    loop {
        changes.mark_unchanged();
        if replica.snapshot().node(&node.name).is_some_and(|row| says(row, &entered)) {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        match NodesClient::new(control.clone()).enter_network(entered.clone()).await {
            Ok(_) => tracing::debug!("control knows where this server is"),
            Err(status) => tracing::warn!(reason = status.message(), "control does not note yet where this server is"),
        }
        tokio::time::sleep(ENTER_AGAIN).await;
    }
}

/// Whether everybody knows what this server said.
fn says(row: &NodeRow, entered: &EnterNetworkRequest) -> bool {
    let mesh = match (&row.mesh, &entered.mesh) {
        (Some(known), Some(own)) => known.public_key == own.public_key && u32::from(known.endpoint.port()) == own.port,
        (known, own) => known.is_none() && own.is_none(),
    };
    let gateway = match (&row.gateway, &entered.gateway) {
        (Some(known), Some(own)) => {
            known.public_key == own.public_key
                && u32::from(known.endpoint.port()) == own.port
                && u32::from(known.websocket_port) == own.websocket_port
        }
        (known, own) => known.is_none() && own.is_none(),
    };
    // Where none was said, control puts one.
    let addresses = row.public_addresses.iter().map(ToString::to_string);
    let rpc = match (&row.mesh, &entered.mesh) {
        (Some(known), Some(own)) => known.rpc.is_some_and(|rpc| u32::from(rpc.port()) == own.rpc_port),
        _ => true,
    };
    let told = entered.public_addresses.is_empty() || addresses.eq(entered.public_addresses.iter().cloned());
    mesh && rpc && gateway && told
}

/// Names outside the private network, asked of whom this host asks.
fn recursion(file: &Path) -> Option<Arc<dyn Recursion>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let servers = resolvers::of(&text);
    if servers.is_empty() {
        tracing::warn!(file = %file.display(), "names no resolver: machines resolve private names only");
        return None;
    }
    Some(Arc::new(Forwarder::new(servers)))
}

/// What names are answered from.
#[derive(Clone)]
struct Names {
    replica: ReplicaHandle,
    reach: Arc<ArcSwap<Reachability>>,
    here: Here,
}

impl Names {
    fn view(&self) -> View {
        View {
            catalogue: self.replica.snapshot().as_ref().clone(),
            reach: self.reach.load_full(),
            here: self.here.clone(),
            api: None,
        }
    }

    /// Tells of each change of the catalogue at once, and of the latest probes.
    async fn follow(self, tell: impl Fn(&Self)) {
        let mut changes = self.replica.subscribe();
        let mut probed = tokio::time::interval(REACH_EVERY);
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                _ = probed.tick() => {}
            }
            tell(&self);
        }
    }
}
