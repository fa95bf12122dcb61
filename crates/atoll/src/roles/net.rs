//! The net process: this server's end of the mesh, the DNS server of its machines and, if the operator says
//! so, one of the platform's public ones. What all do follows from this process's own copy of the catalogue.

mod devices;
mod entering;
mod following;
mod link;
mod mesh;
mod metrics;
mod names;
mod public;
mod region;
mod report;
mod resume;
mod secrets;
mod websocket;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustix::thread::CapabilitySet;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use atoll_dns::internal::{Here, Internal};
use atoll_dns::serve::{Allowance, Server};
use atoll_net::routes::Routes;
use atoll_rpc::channel::connect;
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::proto::control::EnterNetworkRequest;
use atoll_signals::metrics::Source;

use self::names::{Names, recursion};
use self::public::PublicZones;
use super::renewal::{self, renew_forever};
use super::replica::{Kept, SAVE_EVERY};
use super::{Common, asked_to_end, runtime};
use crate::node::sockets::Handed;
use crate::node::{metrics as own_metrics, sockets, supervisor};

pub use self::devices::DEVICES_PATH;
/// Where the process says on its private socket how the mesh is.
pub const MESH_PATH: &str = "/mesh";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What takes a right that nothing after it has: links, and the operator's files.
struct Prepared {
    mesh: mesh::Making,
    devices: Option<devices::Making>,
    zones: Option<PublicZones>,
}

/// Prepares, gives every right up but that over the network, and serves.
pub fn run(common: Common) -> anyhow::Result<()> {
    let Common { node, run, .. } = &common;
    let options = &run.server;
    let mesh = mesh::make(&common)?;
    let devices = devices::make(&common.state, &run.place)?;
    let zones =
        options.dns.map(|_| PublicZones::read(options.dns_zones.as_deref(), &options.public_address, &node.app_domain));
    let prepared = Prepared { mesh, devices, zones: zones.transpose()? };
    supervisor::keep_only(CapabilitySet::NET_ADMIN).context("cannot give up privileges")?;
    runtime(1)?.block_on(serve(common, prepared))
}

async fn serve(common: Common, prepared: Prepared) -> anyhow::Result<()> {
    let mut handed = sockets::take()?;
    let mut serving = Serving::default();
    let Common { state, node, run, live, .. } = &common;
    let control = connect(live, node.control.clone(), Expected::Role(Role::Control))?;
    let mut kept = Kept::start(&common, "net", control.clone())?;
    let replica = kept.replica.clone();

    let routes = Routes::open(&run.place)?;
    routes.prepare().await?;
    let mesh = Arc::new(prepared.mesh.start(&common, &routes, &replica).await?);
    mesh.agree(sockets::tokio_listener(&mut handed, "mesh-rpc")?, &mut serving.tasks)?;
    let devices = match prepared.devices {
        Some(made) => made.start(&routes, &run.place, &node.name, &replica).await?,
        None => None,
    };
    if let Some((devices, socket)) = devices.as_ref().zip(sockets::unix_listener(&mut handed, "devices")) {
        websocket::serve(socket, devices.port())?;
    }
    let entered = EnterNetworkRequest {
        mesh: mesh.end(run.mesh_rpc),
        public_addresses: run.server.public_address.iter().map(ToString::to_string).collect(),
        gateway: devices.as_ref().map(|devices| devices.end(run.https.port())),
        zones: prepared.zones.as_ref().map(PublicZones::names).unwrap_or_default(),
        egress_addresses: run.server.egress_address.iter().map(ToString::to_string).collect(),
    };
    tokio::spawn(entering::stay_entered(entered, node.clone(), control.clone(), replica.clone()));

    let here = Here { node: node.name.clone(), region: node.region };
    let names = Names { replica: replica.clone(), reach: mesh.reach.clone(), here };
    serving.private_names(&names, &mut handed)?;
    if let Some(zones) = prepared.zones {
        serving.public_names(names, zones, &mut handed)?;
    }
    tokio::spawn(renew_forever(live.clone(), control, renewal::Files { identity: state.identity("net"), roots: None }));
    if let Some(socket) = sockets::unix_listener(&mut handed, "metrics") {
        let sources = metrics::sources(&mesh, replica, serving.metrics);
        let devices = devices.map(devices::Devices::into_router).unwrap_or_default();
        own_metrics::serve_beside("net", socket, sources, report::router(mesh).merge(devices))?;
    }
    supervisor::say_ready();

    let mut save = tokio::time::interval(SAVE_EVERY);
    let ended = asked_to_end();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            ended = &mut ended => break ended?,
            Some(ended) = serving.tasks.join_next() => ended?.context("DNS or other servers are not answered any more")?,
            _ = save.tick() => kept.save(),
        }
    }
    serving.stop.cancel();
    kept.end().await
}

/// The servers of this process: none may end before it does.
#[derive(Default)]
struct Serving {
    tasks: JoinSet<std::io::Result<()>>,
    metrics: Vec<Arc<dyn Source>>,
    stop: CancellationToken,
}

impl Serving {
    /// Machines' names.
    fn private_names(&mut self, names: &Names, handed: &mut Handed) -> anyhow::Result<()> {
        let internal = Arc::new(Internal::new(names.view(), Some(recursion(Path::new(RESOLV_CONF)))));
        let server = Server::new(internal.clone(), Allowance::PRIVATE);
        self.metrics.push(server.metrics("private"));
        self.answer(server, handed, ["names-udp", "names-tcp"])?;
        tokio::spawn(names.clone().follow(move |names| internal.publish(names.view())));
        Ok(())
    }

    /// The platform's names, for everybody.
    fn public_names(&mut self, names: Names, zones: PublicZones, handed: &mut Handed) -> anyhow::Result<()> {
        let (public, view) = zones.into_responder(&names);
        let server = Server::new(public.clone(), Allowance::PUBLIC);
        self.metrics.push(server.metrics("public"));
        self.answer(server, handed, ["dns-udp", "dns-tcp"])?;
        tokio::spawn(atoll_dns::public::follow(public.clone(), self.stop.clone()));
        tokio::spawn(names.follow(move |names| public.publish(view(names))));
        Ok(())
    }

    /// Answers at both sockets of one address.
    fn answer(&mut self, server: Server, handed: &mut Handed, [udp, tcp]: [&str; 2]) -> anyhow::Result<()> {
        self.tasks.spawn(server.clone().udp(sockets::udp_socket(handed, udp)?, self.stop.clone()));
        self.tasks.spawn(server.tcp(sockets::tcp_listener(handed, tcp)?, self.stop.clone()));
        Ok(())
    }
}
