//! The edge process: the data plane with its real surroundings.

mod access_log;
mod backhaul;
mod local_worker;
mod platform_api;
mod served;

pub use access_log::JsonAccessLog;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use atoll_catalogue::watch::ReplicaHandle;
use atoll_proxy::surroundings::{NoAccessLog, PlatformApi, Surroundings};
use atoll_proxy::{EdgeConfig, Listener, Listeners};
use atoll_rpc::channel::{connect, connect_local};
use atoll_rpc::identity::{Expected, Role};
use atoll_signals::lines::Destination;

use super::metrics::{CatalogueMetrics, EdgeMetrics};
use super::renewal::{self, renew_forever};
use super::replica::{Kept, SAVE_EVERY};
use super::{Common, asked_to_end};
use crate::node::{metrics, sockets, supervisor};

/// How long a starting edge lets connections wait in its sockets for a view that control calls up to
/// date. Beyond it the kept view serves: control may be dead.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);
const CATCH_UP_PAUSE: Duration = Duration::from_millis(10);

pub async fn run(common: Common) -> anyhow::Result<()> {
    let mut sockets = sockets::take()?;
    let metrics_socket = sockets::unix_listener(&mut sockets, "metrics");
    let mut socket = |name: &str| sockets::tcp_listener(&mut sockets, name);
    let listeners = Listeners {
        http: vec![Listener { socket: socket("http")?, external_port: 80 }],
        https: vec![Listener { socket: socket("https")?, external_port: 443 }],
        private: vec![socket("flycast")?],
        backhaul: vec![socket("backhaul")?],
        ..Listeners::default()
    };
    let Common { state, node, run, live, .. } = &common;
    let control = connect(live, node.control.clone(), Expected::Role(Role::Control))?;
    let mut kept = Kept::start(&common, "edge", control.clone())?;
    let replica = kept.replica.clone();
    catch_up(&replica).await;

    let destination: Destination = match run.server.access_log.as_deref() {
        Some(destination) => destination.parse()?,
        None => Destination::File(state.role("edge").join("access.log")),
    };
    let access_log = JsonAccessLog::start(destination).context("cannot start the access log")?.map(Arc::new);
    let config = EdgeConfig { app_domain: node.app_domain.clone(), ..EdgeConfig::new(node.name.clone(), node.region) };
    let api: Option<Arc<dyn PlatformApi>> = match run.server.no_edge_api {
        true => None,
        false => Some(Arc::new(platform_api::ControlsApi::new(live, &node.control)?)),
    };
    let handle = atoll_proxy::start(
        config,
        Surroundings {
            routes: Arc::new(replica.clone()),
            worker: Arc::new(local_worker::LocalWorker::new(connect_local(&state.worker_socket()))),
            backhaul: Some(Arc::new(backhaul::NodeIdentities::new(live)?)),
            access_log: match access_log.clone() {
                Some(log) => log,
                None => Arc::new(NoAccessLog),
            },
            devices: Some(state.devices_socket()),
            api,
        },
        listeners,
    )?;

    tokio::spawn(served::write_forever(replica.clone(), node.region, state.role("edge").join("served.json")));
    tokio::spawn(renew_forever(
        live.clone(),
        control,
        renewal::Files { identity: state.identity("edge"), roots: None },
    ));

    if let Some(socket) = metrics_socket {
        let edge =
            EdgeMetrics { counters: handle.counters(), open: handle.connection_count(), log: access_log.clone() };
        metrics::serve("edge", socket, vec![Arc::new(edge), Arc::new(CatalogueMetrics(replica.clone()))])?;
    }
    let mut hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    supervisor::say_ready();
    let mut save = tokio::time::interval(SAVE_EVERY);
    let ended = asked_to_end();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            ended = &mut ended => {
                ended?;
                break;
            }
            _ = hangups.recv() => {
                if let Some(log) = &access_log {
                    log.reopen();
                }
            }
            _ = save.tick() => kept.save(),
        }
    }
    let cut = handle.drain(Duration::from_secs(run.server.drain_seconds)).await;
    if cut > 0 {
        tracing::warn!(connections = cut, "the drain ended with connections still open");
    }
    kept.end().await
}

/// The kept view may lack what was made since, and would deny it.
async fn catch_up(replica: &ReplicaHandle) {
    let leased = async {
        while !replica.is_leased() {
            tokio::time::sleep(CATCH_UP_PAUSE).await;
        }
    };
    if tokio::time::timeout(CATCH_UP_LIMIT, leased).await.is_err() {
        tracing::warn!("control was not heard; serves by the catalogue as it was kept");
    }
}
