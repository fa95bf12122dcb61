//! The control process: API, records, deploys, the catalogue's hub, the authority.

mod api;
pub mod authority;
mod certificate;
mod gather;
mod hub;
mod listeners;
mod observe;
mod registry;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use atoll_catalogue::watch::{HubHandle, MemoryBook, boot_clock, keep_book, watch_as_hub};
use atoll_control::{Control, ControlServices, Directory, RowSink, Settings, Unknown};
use atoll_deploy::{Deploys, Timing};
use atoll_identity::TokenText;
use atoll_images::{ImageStore, PullOptions, Puller};
use atoll_keyring::{FileKeys, Keyring};
use atoll_model::{Owner, Row, RowKey, RowVersion};
use atoll_rpc::authorities::Authorities;
use atoll_rpc::identity::Role;
use atoll_rpc::proto::control::enrolment_server::EnrolmentServer;
use atoll_rpc::proto::control::nodes_server::NodesServer;
use atoll_rpc::server::accept_apart;
use atoll_rpc::tls::ALPN_API;
use atoll_signals::metrics::Source;
use atoll_store::{Location, NewNode, NewToken, Store, TokenKind};

use super::catalogue::WatchService;
use super::metrics::{CatalogueMetrics, StoreMetrics};
use super::sequence::DurablePublisher;
use super::{Common, asked_to_end};
use crate::node::join::host_memory_mb;
use crate::node::launch::api_is_plain;
use crate::node::restore::ROWS_EPOCH;
use crate::node::setup::now_unix;
use crate::node::state::StateDir;
use crate::node::{metrics, sockets, supervisor};

const MAX_FRAME: usize = 64 << 20;

pub async fn run(common: Common) -> anyhow::Result<()> {
    let mut sockets = sockets::take()?;
    let api_listener = sockets::tokio_listener(&mut sockets, "api")?;
    let rpc_listener = sockets::tokio_listener(&mut sockets, "rpc")?;
    let metrics_socket = sockets::unix_listener(&mut sockets, "metrics");
    let Common { state, node, run, live, .. } = &common;
    let options = run.control.as_ref().context("this server does not run control")?;
    let own = state.role("control");

    let location: Location = match &options.database {
        Some(url) => url.parse().map_err(|error| anyhow::anyhow!("--database: {error}"))?,
        None => Location::Sqlite(own.join("control.db")),
    };
    let store = Store::open(&location).await.context("cannot open control's records")?;
    register_first_token(&store, state).await?;
    let keys = FileKeys::open_or_create(&own.join("root.key")).context("cannot open control's key")?;
    let rows = DurablePublisher::open(Owner::Control, rows_epoch(&store).await?, own.join("catalogue.sequence"))?;
    let hub = HubHandle::new(atoll_catalogue::protocol::barrier::HubId(rand::random()), boot_clock());
    let advertised = run.server.advertise.unwrap_or_else(|| own_address(run.backhaul));

    let control = Arc::new(Control {
        images: ImageStore::open(own.join("images")).context("cannot open the image store")?,
        puller: Puller::new(PullOptions::default()).context("cannot set up pulls from other registries")?,
        keyring: Arc::new(Keyring::new(Arc::new(keys))),
        authority: Authorities::open(
            &state.authority(),
            &node.platform,
            Duration::from_secs(options.certificate_seconds),
            now_unix(),
        )?,
        directory: Directory::new(live.clone()),
        rows: Arc::new(ControlRows(rows.clone())),
        readers: Arc::new(hub::HubReaders(hub.clone())),
        settings: Settings {
            platform: node.platform.clone(),
            app_domain: options.app_domain.clone(),
            advertised_rpc: SocketAddr::new(advertised, options.rpc.port()).to_string(),
            retention: days(options.retention_days),
            audit_retention: days(options.audit_retention_days),
            now_ms,
        },
        live: live.clone(),
        store,
        unknown: Unknown::default(),
    });
    let entered = NewNode {
        name: node.name.clone(),
        region: node.region,
        key_fingerprint: "control".to_owned(),
        kept_epoch: Some(node.epoch),
        may_replace_key: false,
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_mb: host_memory_mb(),
    };
    let reached = |listening: SocketAddr| {
        let ip = if listening.ip().is_unspecified() { advertised } else { listening.ip() };
        SocketAddr::new(ip, listening.port())
    };
    control.node_enter_own(entered, reached(run.backhaul), reached(run.worker_rpc)).await?;
    control.publish_all().await?;

    let stop = CancellationToken::new();
    let book = Arc::new(MemoryBook::default());
    let view = hub::own_view(&hub, stop.clone());
    tokio::spawn({
        let (hub, rows, stop) = (hub.clone(), rows.publisher(), stop.clone());
        async move { hub.relay(rows, stop).await }
    });
    tokio::spawn(keep_book(hub.clone(), book.clone(), stop.clone()));
    tokio::spawn(watch_as_hub(hub.clone(), hub::connect_to_worker(control.clone()), rand::random(), stop.clone()));
    tokio::spawn(observe::observe_machines(control.clone(), view.clone()));
    tokio::spawn(control.clone().reconcile_forever());
    tokio::spawn({
        let (control, view) = (control.clone(), view.clone());
        async move { control.take_back_forever(|| observe::rows(&view)).await }
    });
    tokio::spawn(control.clone().prune_forever());
    tokio::spawn(control.clone().challenges_end_forever());
    tokio::spawn(authority::keep(control.clone(), state.clone()));

    if let Some(socket) = metrics_socket {
        let sources: Vec<Arc<dyn Source>> =
            vec![Arc::new(StoreMetrics(control.store.timings().clone())), Arc::new(CatalogueMetrics(view.clone()))];
        metrics::serve("control", socket, sources)?;
    }
    let barrier = Arc::new(hub::HubBarrier { hub: hub.clone(), book, view, started: Instant::now() });
    // The same after a restart: a process takes its own deploys back at once.
    let executor = format!("control/{}", node.name);
    let deploys = Arc::new(Deploys::new(control.clone(), barrier, executor, Timing::default()));
    tokio::spawn(deploys.clone().run_forever());

    let tls = live.server_config(true)?;
    let (peers, api_peers) = accept_apart(rpc_listener, &tls, live.trust().clone(), ALPN_API);
    let services = ControlServices(control.clone());
    let peers = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(EnrolmentServer::new(services.clone()))
        .add_service(NodesServer::new(services).max_encoding_message_size(MAX_FRAME))
        .add_service(WatchService::server(hub, &[Role::Edge, Role::Net]))
        .serve_with_incoming(peers);
    let gathered = gather::Gather { control: control.clone(), state: state.clone() };
    let entrances =
        api::Entrances { clients: api_listener, plain: api_is_plain(options), advertised, peers: api_peers };
    let faces = api::serve(entrances, control.clone(), deploys, gathered);

    supervisor::say_ready();
    tokio::select! {
        ended = peers => ended.context("the node service ended")?,
        ended = faces => ended.context("the API ended")?,
        ended = asked_to_end() => ended?,
    }
    stop.cancel();
    control.store.close().await;
    Ok(())
}

/// The epoch of control's rows: one for ever, as their numbers never go back, but for a restore, after
/// which they do.
async fn rows_epoch(store: &Store) -> anyhow::Result<u64> {
    match store.read(|tx| async move { tx.setting_fetch(ROWS_EPOCH).await }).await? {
        None => Ok(1),
        Some(kept) => std::str::from_utf8(&kept)?.parse().context("the epoch of control's rows is damaged"),
    }
}

fn days(number: u32) -> Duration {
    Duration::from_secs(u64::from(number) * 86_400)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(0))
}

/// Makes the token that the first start wrote down an owner's, once. A kill in between repeats it.
async fn register_first_token(store: &Store, state: &StateDir) -> anyhow::Result<()> {
    let file = state.first_token();
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let token: TokenText = text.trim().parse().context("first.token holds no token")?;
    let hash = &token.hash();
    let new = &NewToken {
        kind: TokenKind::Owner,
        name: "root".to_owned(),
        org: None,
        app: None,
        region: None,
        node: None,
        created_by: "atoll".to_owned(),
        expires_at_ms: None,
    };
    store
        .write(|tx| async move {
            tx.organization_ensure_default(now_ms()).await?;
            if tx.token_find(hash).await?.is_none() {
                tx.token_create(hash, new, now_ms()).await?;
            }
            Ok::<_, atoll_store::StoreError>(())
        })
        .await?;
    std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
}

/// This server's address on the way to everybody else; nothing is sent to find it.
fn own_address(listening: SocketAddr) -> IpAddr {
    if !listening.ip().is_unspecified() {
        return listening.ip();
    }
    let route = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // A documentation address (RFC 5737): only the route to it is asked for.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    route().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// Control's rows, into the catalogue.
struct ControlRows(DurablePublisher);

impl RowSink for ControlRows {
    fn put(&self, row: Row) -> Option<RowVersion> {
        self.0.put(&row).inspect_err(|error| tracing::error!(%error, "one of control's rows is refused")).ok()
    }

    fn delete(&self, key: RowKey) -> Option<RowVersion> {
        self.0.delete(&key)
    }

    fn position(&self) -> RowVersion {
        self.0.publisher().position()
    }
}
