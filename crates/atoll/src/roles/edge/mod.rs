//! The edge process: the data plane with its real surroundings.

mod access_log;
mod backhaul;
mod local_worker;

pub use access_log::JsonAccessLog;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use atoll_catalogue::disk::{self, Seal};
use atoll_catalogue::protocol::Replica;
use atoll_catalogue::protocol::targets::Target;
use atoll_catalogue::watch::{BoxError, EdgePlace, ReplicaHandle, boot_clock, watch_as_edge};
use atoll_keyring::{FileKeys, Keyring};
use atoll_model::row::NodeState;
use atoll_proxy::surroundings::{NoAccessLog, Surroundings};
use atoll_proxy::{EdgeConfig, Listener, Listeners};
use atoll_rpc::channel::{connect, connect_local};
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::tls::LiveIdentity;
use atoll_signals::lines::Destination;

use super::catalogue::open_watch;
use super::metrics::{CatalogueMetrics, EdgeMetrics};
use super::renewal::renew_forever;
use super::{Common, asked_to_end};
use crate::node::setup::now_unix;
use crate::node::{metrics, sockets, supervisor};

/// How often the catalogue is kept on disk, for a start without anybody to ask.
const SAVE_EVERY: Duration = Duration::from_secs(5);

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
        backhaul: vec![socket("backhaul")?],
        ..Listeners::default()
    };
    let Common { state, node, run, live, .. } = &common;
    let own = state.role("edge");
    let seal = FileSeal(Keyring::new(Arc::new(
        FileKeys::open_or_create(&own.join("root.key")).context("cannot open the edge's key")?,
    )));
    let saved_file = own.join("catalogue");
    let replica = match disk::load(&saved_file, &seal) {
        Ok(saved) => Replica::restore(saved),
        Err(error) => {
            tracing::info!(%error, "begins with an empty catalogue");
            Replica::default()
        }
    };
    let replica = ReplicaHandle::new(replica, boot_clock());
    let control = connect(live, node.control.clone(), Expected::Role(Role::Control))?;

    let stop = CancellationToken::new();
    let place = EdgePlace { region: node.region, hubs: 1 };
    let watching = {
        let (live, control) = (live.clone(), control.clone());
        let connect_to = move |target: Target| {
            let (live, control) = (live.clone(), control.clone());
            async move {
                match target {
                    Target::Hub(_) => {
                        let streams = open_watch(control).await?;
                        live.trust().authority_heard(now_unix());
                        Ok::<_, BoxError>(streams)
                    }
                    Target::Worker { node, address } => {
                        let expected = Expected::Exactly(Role::Worker, node);
                        open_watch(connect(&live, address.to_string(), expected)?).await
                    }
                }
            }
        };
        tokio::spawn(watch_as_edge(replica.clone(), place, connect_to, rand::random(), stop.clone()))
    };
    catch_up(&replica).await;

    let destination: Destination = match run.server.access_log.as_deref() {
        Some(destination) => destination.parse()?,
        None => Destination::File(own.join("access.log")),
    };
    let access_log = JsonAccessLog::start(destination).context("cannot start the access log")?.map(Arc::new);
    let config = EdgeConfig { app_domain: node.app_domain.clone(), ..EdgeConfig::new(node.name.clone(), node.region) };
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
        },
        listeners,
    )?;

    tokio::spawn(follow_revocations(replica.clone(), live.clone()));
    tokio::spawn(follow_authority(replica.clone(), live.clone()));
    tokio::spawn(renew_forever(live.clone(), control, state.identity("edge")));

    if let Some(socket) = metrics_socket {
        let edge =
            EdgeMetrics { counters: handle.counters(), open: handle.connection_count(), log: access_log.clone() };
        metrics::serve("edge", socket, vec![Arc::new(edge), Arc::new(CatalogueMetrics(replica.clone()))])?;
    }
    let mut hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    supervisor::say_ready();
    let mut save = tokio::time::interval(SAVE_EVERY);
    let mut saved_positions = None;
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
            _ = save.tick() => {
                let positions = replica.positions();
                if saved_positions.as_ref() != Some(&positions) {
                    keep(&replica, &saved_file, &seal);
                    saved_positions = Some(positions);
                }
            }
        }
    }
    let cut = handle.drain(Duration::from_secs(run.server.drain_seconds)).await;
    if cut > 0 {
        tracing::warn!(connections = cut, "the drain ended with connections still open");
    }
    stop.cancel();
    watching.await?;
    keep(&replica, &saved_file, &seal);
    Ok(())
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

fn keep(replica: &ReplicaHandle, file: &std::path::Path, seal: &FileSeal) {
    if let Err(error) = disk::save(file, &replica.save(), seal) {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot keep the catalogue on disk");
    }
}

/// Certificates' keys are in the catalogue, so it is sealed on disk.
struct FileSeal(Keyring);

const SEAL_CONTEXT: &str = "edge/catalogue";

impl Seal for FileSeal {
    fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.seal(SEAL_CONTEXT, plain)?)
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.open(SEAL_CONTEXT, sealed)?.to_vec())
    }
}

/// A node that the directory calls revoked is cut off here too.
pub(super) async fn follow_revocations(replica: ReplicaHandle, live: Arc<LiveIdentity>) {
    let mut changes = replica.subscribe();
    loop {
        let revoked = replica
            .snapshot()
            .nodes()
            .filter(|node| node.state == NodeState::Revoked)
            .map(|node| node.name.clone())
            .collect();
        live.trust().set_revoked(revoked);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// While this edge is leased, control has been heard within seconds.
async fn follow_authority(replica: ReplicaHandle, live: Arc<LiveIdentity>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(10));
    loop {
        ticks.tick().await;
        if replica.is_leased() {
            live.trust().authority_heard(now_unix());
        }
    }
}
