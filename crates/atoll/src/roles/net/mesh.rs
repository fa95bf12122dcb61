//! This server's end of the mesh: its link, who the peers are, and all that makes the ways to them known, good
//! and secret.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use atoll_catalogue::watch::ReplicaHandle;
use atoll_keyring::{FileKeys, Keyring};
use atoll_mesh::probe::{self, Prober};
use atoll_mesh::{Backend, Made, PrivateKey};
use atoll_model::reach::Reachability;
use atoll_net::key;
use atoll_net::links::Links;
use atoll_net::peers::Wanted;
use atoll_net::routes::Routes;
use atoll_net::secrets::End;
use atoll_net::secrets::held::Secrets;
use atoll_net::ways::Ways;
use atoll_resume::Party;
use atoll_rpc::proto::control::MeshEnd;
use atoll_rpc::server::accept;
use atoll_rpc::tls::LiveIdentity;

use super::following::Following;
use super::resume::{Asking, Resumption, TicketService};
use super::secrets::{Agreement, Leading, MeshService};
use super::{link, region};
use crate::roles::Common;

/// The link, made with rights that nothing after it has.
pub struct Making {
    /// None where this host has no such links.
    made: Option<Made>,
    private_key: PrivateKey,
}

pub fn make(common: &Common) -> anyhow::Result<Making> {
    let private_key = key::load_or_create(&common.state.mesh_key())?;
    let place = &common.run.place;
    let without = "this server is not part of the mesh: its machines do not reach those of other servers";
    let made = link::make(&place.link, place.port, &private_key, without)
        .context("cannot join the mesh; another UDP port can be given with --mesh-port")?;
    Ok(Making { made, private_key })
}

/// The mesh as this server has it.
pub struct Mesh {
    own: End,
    pub live: Arc<LiveIdentity>,
    /// Who the link's peers are.
    pub peers: Arc<ArcSwap<Wanted>>,
    pub reach: Arc<ArcSwap<Reachability>>,
    pub secrets: Arc<Secrets>,
    /// None where this server is not part of it.
    pub carrying: Option<Carrying>,
}

/// What moves packets.
pub struct Carrying {
    pub backend: Arc<dyn Backend>,
    /// None where this server cannot measure them: packets go directly, as well as they can.
    pub ways: Option<Ways>,
    pub resumption: Option<Arc<Resumption>>,
}

impl Making {
    /// Begins to carry packets, and to follow the catalogue.
    pub async fn start(self, common: &Common, routes: &Routes, replica: &ReplicaHandle) -> anyhow::Result<Mesh> {
        let Self { made, private_key } = self;
        let folder = common.state.role("net");
        let mut mesh = Mesh {
            own: End { node: common.node.name.clone(), key: private_key.public() },
            live: common.live.clone(),
            peers: Arc::default(),
            reach: Arc::default(),
            secrets: Arc::new(open_secrets(&folder)?),
            carrying: None,
        };
        let Some(made) = made else { return Ok(mesh) };
        let opened = made.start().context("cannot begin to carry packets in the mesh")?;
        let backend: Arc<dyn Backend> = Arc::from(opened.backend);
        tracing::info!(backend = %backend.kind(), reason = opened.reason, port = backend.listen_port(), "part of the mesh");
        // Before the link has peers, so that it sees its first packets.
        let own = Party { node: mesh.own.node.clone(), mesh_key: mesh.own.key.0 };
        let resumption = Resumption::start_if_possible(&backend, own, common.run.server.mesh_resume_port, &folder);
        routes.lead_into_link().await?;
        mesh.secrets.lead_into(backend.clone());
        let prober = Prober::start((common.run.place.address, probe::PORT).into(), mesh.reach.clone())
            .context("cannot probe the ways to other servers")?;
        let (near, changes) = watch::channel(None);
        tokio::spawn(region::keep(common.run.place.instance, changes));
        let following = Following {
            links: Links::new(backend.clone(), private_key.clone(), mesh.secrets.clone()),
            own: mesh.own.key,
            node: mesh.own.node.clone(),
            region: common.node.region,
            replica: replica.clone(),
            peers: mesh.peers.clone(),
            near,
            prober,
        };
        following.start()?;
        let ways = Ways::start(backend.clone(), link::mtu(), private_key, mesh.peers.clone(), mesh.reach.clone());
        let ways = ways.inspect_err(|error| {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "packets take no way over other servers, nor are theirs relayed"
            );
        });
        mesh.carrying = Some(Carrying { backend, ways: ways.ok(), resumption });
        Ok(mesh)
    }
}

impl Mesh {
    pub fn ways(&self) -> Option<&Ways> {
        self.carrying.as_ref()?.ways.as_ref()
    }

    /// What control is told; `rpc`: where this process answers the others'.
    pub fn end(&self, rpc: SocketAddr) -> Option<MeshEnd> {
        let Carrying { backend, .. } = self.carrying.as_ref()?;
        Some(MeshEnd {
            public_key: self.own.key.to_string(),
            port: u32::from(backend.listen_port()),
            rpc_port: u32::from(rpc.port()),
        })
    }

    /// Agrees with the other servers' processes on secrets, and exchanges tickets with them.
    ///
    /// # Errors
    /// If this process has no certificate that serves.
    pub fn agree(&self, listener: TcpListener, serving: &mut JoinSet<std::io::Result<()>>) -> anyhow::Result<()> {
        let Some(Carrying { resumption, .. }) = &self.carrying else { return Ok(()) };
        let (peers, live) = (&self.peers, &self.live);
        let agreement = Agreement {
            own: self.own.clone(),
            secrets: self.secrets.clone(),
            peers: peers.clone(),
            live: live.clone(),
        };
        tokio::spawn(Leading { agreement: agreement.clone(), reach: self.reach.clone() }.run());
        let tickets = resumption.clone().map(|resumption| {
            tokio::spawn(Asking { resumption: resumption.clone(), peers: peers.clone(), live: live.clone() }.run());
            TicketService::server(resumption, peers.clone())
        });
        let connections = accept(listener, live.server_config(false)?, live.trust().clone());
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .add_service(MeshService::server(agreement))
            .add_optional_service(tickets)
            .serve_with_incoming(connections);
        serving.spawn(async { server.await.map_err(std::io::Error::other) });
        Ok(())
    }
}

/// The secrets that an earlier process shared with other servers.
fn open_secrets(folder: &Path) -> anyhow::Result<Secrets> {
    let keys = FileKeys::open_or_create(&folder.join("root.key")).context("cannot open the key of the net process")?;
    Ok(Secrets::open(&folder.join("secrets"), Keyring::new(Arc::new(keys))))
}
