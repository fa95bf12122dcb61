//! Control's side of the catalogue: connections to workers, its own view of the rows, and barriers
//! for deploys.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use atoll_catalogue::protocol::Replica;
use atoll_catalogue::protocol::barrier::{REGISTRATION_TERM, Target as BarrierTarget};
use atoll_catalogue::protocol::targets::Target;
use atoll_catalogue::watch::{
    BoxError, CHANNEL_MESSAGES, EdgePlace, HubHandle, MemoryBook, ReplicaHandle, Streams, boot_clock, serve_watch,
    wait_for_barrier, watch_as_edge,
};
use atoll_control::{Control, Readers};
use atoll_deploy::{Barrier, BarrierFailure};
use atoll_model::row::{MachineRow, Reader};
use atoll_model::{MachineId, NodeName, Owner, RowKey, RowVersion};

use super::super::catalogue::open_watch;

type Connecting = Pin<Box<dyn Future<Output = Result<Streams, BoxError>> + Send>>;

/// Opens watches on workers, and notes who is heard.
pub fn connect_to_worker(control: Arc<Control>) -> impl Fn(Target) -> Connecting + Clone + Send + 'static {
    move |target| {
        let control = control.clone();
        Box::pin(async move {
            let Target::Worker { node, .. } = target else { return Err("the hub watches workers only".into()) };
            let streams = open_watch(control.directory.channel(&node)?).await?;
            control.directory.set_heard(&node, true);
            let incoming = Heard { incoming: streams.incoming, control, node };
            Ok(Streams { incoming: Box::pin(incoming), outgoing: streams.outgoing })
        })
    }
}

/// A worker's stream; its end is noted.
struct Heard {
    incoming: Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>,
    control: Arc<Control>,
    node: NodeName,
}

impl Stream for Heard {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.incoming.as_mut().poll_next(context)
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.control.directory.set_heard(&self.node, false);
    }
}

/// Control's own view of all rows: it watches its hub as an edge would, in memory. It counts as
/// one more edge in barriers, and passes them like one.
pub fn own_view(hub: &HubHandle, stop: CancellationToken) -> ReplicaHandle {
    let view = ReplicaHandle::new(Replica::default(), boot_clock());
    let hub = hub.clone();
    let connect = move |_: Target| {
        let hub = hub.clone();
        async move {
            let name: NodeName = "0--control".parse().map_err(BoxError::from)?;
            let (outgoing, requests) = mpsc::channel(CHANNEL_MESSAGES);
            let (replies, incoming) = mpsc::channel(CHANNEL_MESSAGES);
            let requests = futures_util::StreamExt::map(ReceiverStream::new(requests), Ok::<Bytes, BoxError>);
            tokio::spawn(async move {
                if let Err(error) = serve_watch(&hub, name, requests, replies).await {
                    tracing::debug!(%error, "control's own watch ended");
                }
            });
            let incoming = futures_util::StreamExt::map(ReceiverStream::new(incoming), Ok::<Bytes, BoxError>);
            Ok(Streams { incoming: Box::pin(incoming), outgoing })
        }
    };
    // The region chooses which workers are watched beside the hub. No server stands in this one.
    if let Ok(region) = "zzz".parse() {
        tokio::spawn(watch_as_edge(view.clone(), EdgePlace { region, hubs: 1 }, connect, rand::random(), stop));
    }
    view
}

/// How far servers have come with control's rows.
pub struct HubReaders(pub HubHandle);

impl Readers for HubReaders {
    fn goes_by(&self, node: &NodeName, reader: Reader, key: &RowKey, version: RowVersion) -> bool {
        self.0.goes_by(node, reader, key, version)
    }

    fn acknowledged(&self) -> watch::Receiver<u64> {
        self.0.acknowledgements()
    }
}

/// "Every edge knows", for deploys, as long as there is one control process.
///
/// The book of barriers is in memory: what the process before this one leased is not in it. No
/// barrier passes before those leases have ended.
pub struct HubBarrier {
    pub hub: HubHandle,
    pub book: Arc<MemoryBook>,
    pub view: ReplicaHandle,
    pub started: Instant,
}

#[async_trait]
impl Barrier for HubBarrier {
    async fn wait(&self, key: RowKey, limit: Duration) -> Result<(), BarrierFailure> {
        let fail = |reason: String| BarrierFailure { reason };
        tokio::time::sleep_until((self.started + REGISTRATION_TERM).into()).await;
        let RowKey::Machine(machine) = &key else { return Err(fail(format!("{key} is no machine"))) };
        let row = self.machine_row(*machine).ok_or_else(|| fail(format!("{machine} is not in the catalogue yet")))?;
        let owner = Owner::Node(row.node.clone());
        // Control's own view follows the hub, so what it shows is no newer than this.
        let version =
            self.hub.version_of(&owner, &key).ok_or_else(|| fail(format!("the hub has no {key} of {owner}")))?;
        let target = BarrierTarget { owner, key, version };
        wait_for_barrier(&self.hub, &*self.book, &target, limit).await.map_err(|error| fail(error.to_string()))
    }

    fn machine_row(&self, id: MachineId) -> Option<Arc<MachineRow>> {
        self.view.snapshot().machine(&id).cloned()
    }
}
