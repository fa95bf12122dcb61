//! The worker process: the node agent with its real parts, served to control and to this node's edge.

use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Server};
use tonic::{Request, Status};

use atoll_driver::ContainerDriver;
use atoll_images::{BlobSource, BlobStream, Digest, EnsureError, ImageStore, SourceError, UnpackLimits, ensure_image};
use atoll_keyring::{FileKeys, Keyring};
use atoll_model::{Owner, Row, RowKey};
use atoll_rpc::channel::connect;
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::proto::control::BlobRequest;
use atoll_rpc::proto::control::nodes_client::NodesClient;
use atoll_rpc::server::{accept, require_role};
use atoll_signals::{STAGES, moment_us};
use atoll_worker::grpc::{LocalService, WorkerService};
use atoll_worker::network::{HostNetworks, NetworkConfig};
use atoll_worker::seams::{
    BundleSeal, ImageError, ImageProcess, ImageProvider, NoHook, PreparedImage, RowSink, SealError,
};
use atoll_worker::{Deps, Knobs, SystemClock, Worker, WorkerConfig};

use super::catalogue::WatchService;
use super::metrics::WorkerMetrics;
use super::renewal::renew_forever;
use super::sequence::DurablePublisher;
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
    let keys = FileKeys::open_or_create(&own.join("root.key")).context("cannot open the node's key")?;
    let instance = u32::from_str_radix(node.mark(), 16).context("the instance in node.json is not hex")?;
    let networks =
        HostNetworks::open(NetworkConfig { instance, state_dir: own.clone(), block: None, ready_namespaces: 4 })
            .await?;
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
        images: Arc::new(NodeImages { store: images, source: ControlBlobs(NodesClient::new(control.clone())) }),
        networks: Arc::new(networks),
        seal: Arc::new(NodeSeal(Keyring::new(Arc::new(keys)))),
        rows: Arc::new(NodeRows(rows.clone())),
        clock: Arc::new(SystemClock),
        steps: Arc::new(NoHook),
    };
    // Every machine's row is published before anybody may watch: a watch of half of them would tell
    // edges that the other half is gone.
    let agent = Worker::start(config, deps).await.context("cannot start the agent")?;

    tokio::spawn(renew_forever(live.clone(), control, state.identity("worker")));

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
        .add_service(WatchService::server(rows.publisher(), &[Role::Edge, Role::Control]))
        .serve_with_incoming(peers);

    if let Some(socket) = metrics_socket {
        metrics::serve("worker", socket, vec![Arc::new(WorkerMetrics(agent.clone()))])?;
    }
    supervisor::say_ready();
    tokio::select! {
        ended = local => ended.context("the local service ended")?,
        ended = peers => ended.context("the node service ended")?,
        ended = asked_to_end() => ended?,
    }
    agent.close();
    Ok(())
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

/// Images by digest: what is here needs nobody; the rest comes from control's store.
struct NodeImages {
    store: ImageStore,
    source: ControlBlobs,
}

#[async_trait]
impl ImageProvider for NodeImages {
    async fn ensure(&self, reference: &str, digest: &str) -> Result<PreparedImage, ImageError> {
        let wanted: Digest = digest.parse().map_err(|error| ImageError {
            reason: format!("the image {reference} has no usable digest {digest:?}"),
            source: Some(Box::new(error)),
        })?;
        let before = self.store.size_of(&wanted).ok().flatten().is_some();
        let unpacked = ensure_image(&self.store, &self.source, wanted, &UnpackLimits::default()).await;
        let unpacked = unpacked.map_err(|error: EnsureError| ImageError {
            reason: format!("the image {reference} cannot be made ready"),
            source: Some(Box::new(error)),
        })?;
        let config = unpacked.config;
        Ok(PreparedImage {
            layers: unpacked.layers,
            bytes_fetched: if before { 0 } else { config.total_size },
            config: ImageProcess {
                entrypoint: config.entrypoint,
                cmd: config.cmd,
                env: config.env.into_iter().collect(),
                working_dir: config.working_dir,
                user: config.user,
            },
        })
    }

    /// Nothing is collected on a node by itself: what machines need is never removed.
    fn pin(&self, _digests: Vec<String>) {}
}

/// Control's image store, over its node service.
struct ControlBlobs(NodesClient<Channel>);

#[async_trait]
impl BlobSource for ControlBlobs {
    async fn open(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        let place = || "control".to_owned();
        let broken = |status: tonic::Status| match status.code() {
            tonic::Code::NotFound => SourceError::Missing { what: digest.to_string(), place: place() },
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
                SourceError::Denied { place: place(), reason: status.message().to_owned() }
            }
            _ => SourceError::Broken { place: place(), source: Box::new(status) },
        };
        let request = BlobRequest { digest: digest.to_string(), offset };
        let mut chunks = self.0.clone().blob(request).await.map_err(broken)?.into_inner();
        let first = chunks
            .message()
            .await
            .map_err(broken)?
            .ok_or_else(|| SourceError::Broken { place: place(), source: "the answer was empty".into() })?;
        let size = first.size;
        let rest = chunks.map(|chunk| {
            chunk
                .map(|chunk| chunk.data)
                .map_err(|status| SourceError::Broken { place: "control".to_owned(), source: Box::new(status) })
        });
        let bytes = futures_util::stream::once(async move { Ok(first.data) }).chain(rest).boxed();
        Ok(BlobStream { size: Some(size), bytes })
    }
}
