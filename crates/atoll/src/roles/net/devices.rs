//! This server as a gateway: users' devices enter their private networks here, through a WireGuard link of
//! their own. Whom it lets in follows from the catalogue.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use arc_swap::ArcSwap;
use axum::extract::Path as PathOf;
use axum::routing::get;
use axum::{Json, Router};

use atoll_catalogue::watch::ReplicaHandle;
use atoll_mesh::{Backend, Made, PrivateKey, PublicKey};
use atoll_model::NodeName;
use atoll_model::address::NetworkId;
use atoll_model::wire::WireGuardLink;
use atoll_net::devices::whereabouts::Whereabouts;
use atoll_net::devices::{Entrance, Wanted, rules, wanted};
use atoll_net::routes::{DeviceRoutes, Routes};
use atoll_net::{Place, key};
use atoll_rpc::proto::control::GatewayEnd;

use super::link;
use crate::node::state::StateDir;

/// Where the process says on its private socket how a device does, by address.
pub const DEVICES_PATH: &str = "/devices";
/// Changes that come together are made together.
const PAUSE: Duration = Duration::from_millis(5);
/// How often it is written down where devices are.
const REMEMBER_EVERY: Duration = Duration::from_secs(1);
/// After something was refused.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// The link, made with rights that nothing after it has.
pub struct Making {
    made: Made,
    private_key: PrivateKey,
    /// Where devices' whereabouts are kept.
    kept: PathBuf,
}

/// None where this host has no such links.
pub fn make(state: &StateDir, place: &Place) -> anyhow::Result<Option<Making>> {
    let private_key = key::load_or_create(&state.gateway_key())?;
    let without = "users' devices cannot enter private networks at this server";
    let made = link::make(&place.devices, place.devices_port, &private_key, without)
        .context("cannot let users' devices in; another UDP port can be given with --wireguard-port")?;
    Ok(made.map(|made| Making { made, private_key, kept: state.devices() }))
}

/// The gateway at work.
#[derive(Clone)]
pub struct Devices {
    backend: Arc<dyn Backend>,
    public_key: PublicKey,
    /// Whom the link lets in.
    wanted: Arc<ArcSwap<Wanted>>,
}

impl Making {
    /// Begins to let devices in. None if the packet filter cannot say what they may reach.
    pub async fn start(
        self,
        routes: &Routes,
        place: &Place,
        node: &NodeName,
        replica: &ReplicaHandle,
    ) -> anyhow::Result<Option<Devices>> {
        let Self { made, private_key, kept } = self;
        if let Err(error) = rules::apply(rules::table(place, &BTreeSet::new())).await {
            tracing::error!(error = &error as &dyn std::error::Error, "no users' devices are let in here");
            return Ok(None);
        }
        let opened = made.start().context("cannot begin to carry packets of users' devices")?;
        let backend: Arc<dyn Backend> = Arc::from(opened.backend);
        tracing::info!(backend = %backend.kind(), port = backend.listen_port(), "a gateway of users' devices");
        let devices = Devices { backend: backend.clone(), public_key: private_key.public(), wanted: Arc::default() };
        let following = Following {
            entrance: Entrance::new(backend, private_key),
            routes: DeviceRoutes::open(routes.clone()).await?,
            place: place.clone(),
            node: node.clone(),
            replica: replica.clone(),
            devices: devices.clone(),
            networks: None,
            routed: BTreeSet::new(),
            known: Whereabouts::load(&kept),
        };
        tokio::spawn(devices.clone().remember(following.known.clone(), kept));
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("net-devices".to_owned())
            .spawn(move || following.run(&runtime))
            .context("cannot follow the catalogue")?;
        Ok(Some(devices))
    }
}

impl Devices {
    pub fn port(&self) -> u16 {
        self.backend.listen_port()
    }

    /// What control is told.
    pub fn end(&self, websocket_port: u16) -> GatewayEnd {
        GatewayEnd {
            public_key: self.public_key.to_string(),
            port: u32::from(self.port()),
            websocket_port: u32::from(websocket_port),
        }
    }

    /// Keeps where devices are for the process after this one.
    async fn remember(self, mut known: Whereabouts, kept: PathBuf) {
        let mut interval = tokio::time::interval(REMEMBER_EVERY);
        loop {
            interval.tick().await;
            let Ok(statuses) = self.backend.peers() else { continue };
            let now = known.after(&statuses, &self.wanted.load());
            if now != known {
                if let Err(error) = now.save(&kept) {
                    tracing::warn!(%error, file = %kept.display(), "cannot keep where users' devices are");
                }
                known = now;
            }
        }
    }

    pub fn into_router(self) -> Router {
        let path = format!("{DEVICES_PATH}/{{address}}");
        Router::new()
            .route(&path, get(move |PathOf(address): PathOf<Ipv6Addr>| async move { Json(self.link(address)) }))
    }

    /// How the device with this address does; none if it is not let in.
    fn link(&self, address: Ipv6Addr) -> Option<WireGuardLink> {
        let key = self.wanted.load().key_of(address)?;
        let statuses = self.backend.peers().inspect_err(|error| {
            tracing::warn!(error = error as &dyn std::error::Error, "the devices' link does not say how it is");
        });
        let status = statuses.ok()?.into_iter().find(|status| status.public_key == key)?;
        let handshake = status.last_handshake.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Some(WireGuardLink {
            endpoint: status.endpoint,
            last_handshake: handshake.map(|since| since.as_secs()),
            rx_bytes: status.rx_bytes,
            tx_bytes: status.tx_bytes,
        })
    }
}

/// Keeps link, routes and packet filter as the catalogue has the devices.
struct Following {
    entrance: Entrance,
    routes: DeviceRoutes,
    place: Place,
    node: NodeName,
    replica: ReplicaHandle,
    devices: Devices,
    /// Those that the packet filter lets devices of through; not known at first.
    networks: Option<BTreeSet<NetworkId>>,
    /// Devices that there are routes to.
    routed: BTreeSet<Ipv6Addr>,
    /// Where an earlier process heard them.
    known: Whereabouts,
}

impl Following {
    /// Until the catalogue ends, on a thread of its own: the async ones must not wait for the kernel.
    fn run(mut self, runtime: &tokio::runtime::Handle) {
        let mut changes = self.replica.subscribe();
        loop {
            changes.mark_unchanged();
            let want = wanted(&self.replica.snapshot(), &self.node, self.devices.public_key);
            if let Err(error) = runtime.block_on(self.follow(want)) {
                tracing::error!(error = format!("{error:#}"), "users' devices are not let in as the catalogue wants");
                std::thread::sleep(TRY_AGAIN);
                continue;
            }
            std::thread::sleep(PAUSE);
            if runtime.block_on(changes.changed()).is_err() {
                return;
            }
        }
    }

    /// Shuts out first, lets in last: a device passes only where all is ready for it.
    async fn follow(&mut self, want: Wanted) -> anyhow::Result<()> {
        self.entrance.shut_out(&want)?;
        let (networks, addresses) = (want.networks(), want.addresses());
        for gone in self.routed.difference(&addresses).copied().collect::<Vec<_>>() {
            self.routes.remove(gone).await?;
            self.routed.remove(&gone);
        }
        if self.networks.as_ref() != Some(&networks) {
            rules::apply(rules::table(&self.place, &networks)).await?;
            self.networks = Some(networks);
        }
        for new in addresses {
            if !self.routed.contains(&new) {
                self.routes.add(new).await?;
                self.routed.insert(new);
            }
        }
        self.entrance.let_in(want.clone(), &self.known)?;
        self.devices.wanted.store(Arc::new(want));
        Ok(())
    }
}
