//! The worker process: the node agent with its real parts, served to control and to this node's edge.

use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};

use atoll_driver::ContainerDriver;
use atoll_images::ImageStore;
use atoll_keyring::{FileKeys, Keyring};
use atoll_model::{Owner, Row, RowKey};
use atoll_net::Place;
use atoll_rpc::channel::connect;
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::server::{accept, require_role};
use atoll_signals::{STAGES, moment_us, with_causes};
use atoll_worker::grpc::{LocalService, WorkerService};
use atoll_worker::network::{HostNetworks, MeshFace, NetworkConfig};
use atoll_worker::seams::{BundleSeal, NoHook, RowSink, SealError};
use atoll_worker::{Agent, Deps, Knobs, SystemClock, Worker, WorkerConfig};

use super::catalogue::WatchService;
use super::images::{NodeImages, Policy};
use super::metrics::{NetworkMetrics, WorkerMetrics};
use super::place::PlaceService;
use super::renewal::{Files, renew_forever};
use super::sequence::DurablePublisher;
use super::standing::{given_up, stop_machines};
use super::{Common, asked_to_end};
use crate::node::join::host_memory_mb;
use crate::node::{metrics, sockets, supervisor};

pub async fn run(common: Common) -> anyhow::Result<()> {
    let mut sockets = sockets::take()?;
    let listener = sockets::tokio_listener(&mut sockets, "worker-rpc")?;
    let metrics_socket = sockets::unix_listener(&mut sockets, "metrics");
    let Common { state, node, run, live, .. } = &common;
    let own = state.role("worker");
    let control = connect(live, node.control.clone(), Expected::Role(Role::Control))?;

    let rows = DurablePublisher::open(Owner::Node(node.name.clone()), node.epoch, own.join("catalogue.sequence"))?;
    let images = ImageStore::open(own.join("images")).context("cannot open the image store")?;
    let images = NodeImages::new(images, control.clone())?;
    let keys = FileKeys::open_or_create(&own.join("root.key")).context("cannot open the node's key")?;
    let instance = node.instance_number()?;
    let Place { link, address, mark, devices, .. } = run.place.clone();
    let networks = HostNetworks::open(NetworkConfig {
        instance,
        state_dir: own.clone(),
        block: None,
        ready_namespaces: 4,
        mesh: Some(MeshFace { link, address, mark, devices }),
    })
    .await?;
    let networks = Arc::new(networks);
    let driver = ContainerDriver::new(&own.join("bin")).context("cannot prepare the container driver")?;
    let config = WorkerConfig {
        state_dir: own.clone(),
        node: node.name.clone(),
        region: node.region,
        instance,
        epoch: node.epoch,
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_mb: host_memory_mb(),
        seed: rand::random(),
        knobs: Knobs { memory_overcommit: run.server.memory_overcommit, ..Knobs::default() },
    };
    let deps = Deps {
        driver: Arc::new(driver),
        images: Arc::new(images.clone()),
        networks: networks.clone(),
        seal: Arc::new(NodeSeal(Keyring::new(Arc::new(keys)))),
        rows: Arc::new(NodeRows(rows.clone())),
        clock: Arc::new(SystemClock),
        steps: Arc::new(NoHook),
    };
    // Every machine's row is published before anybody may watch: a watch of half of them would tell
    // edges that the other half is gone.
    let agent = Worker::start(config, deps).await.context("cannot start the agent")?;

    let files = Files { identity: state.identity("worker"), roots: Some(state.ca_certificate()) };
    tokio::spawn(renew_forever(live.clone(), control, files));
    tokio::spawn(count_traffic(networks.clone(), agent.clone()));
    let tally = images.tally();
    tokio::spawn(images.collect_forever(Policy {
        age: Duration::from_secs(u64::from(run.server.image_days) * 86_400),
        reserve_percent: run.server.image_reserve_percent,
    }));

    let socket = state.worker_socket();
    supervisor::remove_stale(&socket)?;
    let local = UnixListener::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
    chown(&socket, Some(run.server.edge_uid), None).context("cannot hand the worker's socket to the edge")?;
    let local = Server::builder()
        .add_service(LocalService::new(agent.clone()).into_server())
        .serve_with_incoming(UnixListenerStream::new(local));

    let peers = accept(listener, live.server_config(false)?, live.trust().clone());
    let peers = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(InterceptedService::new(WorkerService::new(agent.clone()).into_server(), control_only))
        .add_service(InterceptedService::new(
            PlaceService::server(state.role("guard"), state.metrics_socket("net")),
            control_only,
        ))
        .add_service(WatchService::server(rows.publisher(), &[Role::Edge, Role::Net, Role::Control]))
        .serve_with_incoming(peers);

    if let Some(socket) = metrics_socket {
        let machines = Arc::new(WorkerMetrics(agent.clone()));
        metrics::serve("worker", socket, vec![machines, Arc::new(NetworkMetrics(networks)), tally])?;
    }
    supervisor::say_ready();
    tokio::select! {
        ended = local => ended.context("the local service ended")?,
        ended = peers => ended.context("the node service ended")?,
        ended = asked_to_end() => ended?,
        // Nothing is served any more from here on, so nothing is woken.
        () = given_up(state, node), if !node.runs_control => {
            tracing::error!("the platform has given this server up as lost: its machines end here");
            stop_machines(&agent).await;
            std::process::exit(supervisor::GIVEN_UP);
        }
    }
    agent.close();
    Ok(())
}

/// Keeps up with what the kernel counts of machines' networks.
async fn count_traffic(networks: Arc<HostNetworks>, agent: Agent) {
    let mut beat = tokio::time::interval(Duration::from_secs(15));
    loop {
        beat.tick().await;
        let here = |machine| agent.get(machine).is_ok();
        if let Err(error) = networks.read_traffic(here).await {
            tracing::warn!(error = with_causes(&error), "bytes of machines are not counted for now");
        }
    }
}

/// Machines are changed by control alone; other nodes may watch.
fn control_only(request: Request<()>) -> Result<Request<()>, Status> {
    require_role(&request, &[Role::Control])?;
    Ok(request)
}

/// Rows of this node's machines, into the catalogue.
struct NodeRows(DurablePublisher);

impl RowSink for NodeRows {
    fn put(&self, row: Row) {
        let at_us = moment_us();
        match self.0.put(&row) {
            Ok(version) => tracing::debug!(target: STAGES, sequence = version.sequence, at_us, "put"),
            Err(error) => tracing::error!(%error, "a machine's row is refused"),
        }
    }

    fn delete(&self, key: RowKey) {
        self.0.delete(&key);
    }
}

/// Bundles sealed to this node's own key.
struct NodeSeal(Keyring);

impl BundleSeal for NodeSeal {
    fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.0.seal(context, plain).map_err(|error| SealError { reason: error.to_string() })
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let opened = self.0.open(context, sealed).map_err(|error| SealError { reason: error.to_string() })?;
        Ok(opened.to_vec())
    }
}
