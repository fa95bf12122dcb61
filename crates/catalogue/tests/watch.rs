//! The whole catalogue in one process: owners, a hub and edges on real tasks, with channels for a
//! network that can be cut.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_catalogue::disk::{Seal, keep_saved, load};
use atoll_catalogue::protocol::barrier::{HubId, Target as BarrierTarget};
use atoll_catalogue::protocol::targets::Target;
use atoll_catalogue::protocol::{OwnerLog, Replica};
use atoll_catalogue::watch::{
    BarrierError, BoxError, CHANNEL_MESSAGES, EdgePlace, HubHandle, MemoryBook, Publisher, ReplicaHandle, Streams,
    boot_clock, keep_book, serve_watch, wait_for_barrier, watch_as_edge, watch_as_hub,
};
use atoll_model::address::NetworkId;
use atoll_model::row::{AppRow, MachineRow, NodeRow, NodeState};
use atoll_model::{MachineId, MachineState, MachineVersion, NodeName, Owner, Row, RowVersion};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

/// One control process, workers `ams1` and `nrt1`, and whatever edges a test starts.
struct Cluster {
    control: Publisher,
    workers: HashMap<NodeName, Publisher>,
    hub: HubHandle,
    book: Arc<MemoryBook>,
    network: Network,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Which (watcher, server) pairs are cut; cutting ends what is connected.
#[derive(Clone, Default)]
struct Network {
    links: Arc<Mutex<HashMap<(String, String), Link>>>,
}

#[derive(Clone, Default)]
struct Link {
    cut: bool,
    connected: CancellationToken,
}

impl Network {
    fn set(&self, watcher: &str, server: &str, cut: bool) {
        let mut links = self.links.lock().unwrap();
        let link = links.entry((watcher.into(), server.into())).or_default();
        link.connected.cancel();
        *link = Link { cut, connected: CancellationToken::new() };
    }

    fn link(&self, watcher: &str, server: &str) -> Link {
        self.links.lock().unwrap().entry((watcher.into(), server.into())).or_default().clone()
    }
}

fn node(name: &str, region: &str, epoch: u64) -> Row {
    Row::Node(NodeRow {
        name: name.parse().unwrap(),
        region: region.parse().unwrap(),
        state: NodeState::Active,
        epoch,
        backhaul: None,
        worker_rpc: Some("192.0.2.1:4281".parse().unwrap()),
        public_addresses: Vec::new(),
        egress_addresses: Vec::new(),
        mesh: None,
        gateway: None,
        zones: Vec::new(),
    })
}

fn app(name: &str) -> Row {
    Row::App(AppRow {
        name: name.parse().unwrap(),
        org: "acme".parse().unwrap(),
        network: NetworkId(1),
        primary_region: None,
        hostnames: Vec::new(),
        addresses: Vec::new(),
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    })
}

fn machine(id: u64, node: &str, state: MachineState) -> Row {
    Row::Machine(MachineRow {
        id: MachineId::from_random(id),
        app: "web".parse().unwrap(),
        network: NetworkId(1),
        node: node.parse().unwrap(),
        region: "ams".parse().unwrap(),
        version: MachineVersion::from_parts(1, 1),
        state,
        cordoned: false,
        private_ipv4: [172, 19, 0, 2].into(),
        private_ipv6: "fdaa:0:1::2".parse().unwrap(),
        process_group: "app".into(),
        services: Arc::new([]),
        changed_at_ms: 0,
        metadata: Default::default(),
        skip_dns: false,
    })
}

impl Cluster {
    fn start() -> Self {
        let control = Publisher::new(OwnerLog::new(Owner::Control, 1));
        control.put(&node("ams1", "ams", 1)).unwrap();
        control.put(&node("nrt1", "nrt", 1)).unwrap();
        let worker = |name: &str| {
            let name: NodeName = name.parse().unwrap();
            (name.clone(), Publisher::new(OwnerLog::new(Owner::Node(name), 1)))
        };
        let cluster = Self {
            control,
            workers: ["ams1", "nrt1"].map(worker).into(),
            hub: HubHandle::new(HubId(7), boot_clock()),
            book: Arc::default(),
            network: Network::default(),
            stop: CancellationToken::new(),
        };
        let (hub, stop) = (cluster.hub.clone(), cluster.stop.clone());
        let control = cluster.control.clone();
        tokio::spawn(async move { hub.relay(control, stop).await });
        tokio::spawn(keep_book(cluster.hub.clone(), cluster.book.clone(), cluster.stop.clone()));
        tokio::spawn(watch_as_hub(cluster.hub.clone(), cluster.connector("hub"), 1, cluster.stop.clone()));
        cluster
    }

    fn edge(&self, name: &'static str) -> ReplicaHandle {
        let replica = ReplicaHandle::new(Replica::default(), boot_clock());
        let place = EdgePlace { region: "ams".parse().unwrap(), hubs: 1 };
        tokio::spawn(watch_as_edge(replica.clone(), place, self.connector(name), 2, self.stop.clone()));
        replica
    }

    fn worker(&self, name: &str) -> &Publisher {
        &self.workers[&name.parse::<NodeName>().unwrap()]
    }

    /// Connects `watcher` to whom it asks for.
    fn connector(
        &self,
        watcher: &'static str,
    ) -> impl Fn(Target) -> std::future::Ready<Result<Streams, BoxError>> + Clone + Send + 'static {
        let (hub, workers, network) = (self.hub.clone(), self.workers.clone(), self.network.clone());
        move |target| {
            let server = match &target {
                Target::Hub(_) => "hub".to_owned(),
                Target::Worker { node, .. } => node.to_string(),
            };
            let Link { cut, connected } = network.link(watcher, &server);
            if cut {
                return std::future::ready(Err("the link is cut".into()));
            }
            let (requests, incoming) = mpsc::channel(CHANNEL_MESSAGES);
            let (outgoing, events) = mpsc::channel(CHANNEL_MESSAGES);
            let incoming = ReceiverStream::new(incoming).map(Ok::<_, BoxError>);
            let name: NodeName = watcher.parse().unwrap();
            let (hub, worker) = (hub.clone(), workers.get(server.as_str()).cloned());
            tokio::spawn(async move {
                let served = async {
                    match worker {
                        Some(worker) => serve_watch(&worker, name, incoming, outgoing).await,
                        None => serve_watch(&hub, name, incoming, outgoing).await,
                    }
                };
                // Whatever ends a watch is what the test is about.
                let _ = connected.run_until_cancelled(served).await;
            });
            let incoming = ReceiverStream::new(events).map(Ok);
            std::future::ready(Ok(Streams { incoming: Box::pin(incoming), outgoing: requests }))
        }
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, waiting).await;
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

fn state_at(edge: &ReplicaHandle, id: u64) -> Option<MachineState> {
    edge.view().machine(&MachineId::from_random(id)).map(|row| row.state)
}

fn target(row: &Row, version: RowVersion) -> BarrierTarget {
    BarrierTarget { key: row.key(), owner: row.rightful_owner(), version }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_every_owner_reach_an_edge_and_leave_it_again() {
    let cluster = Cluster::start();
    let edge = cluster.edge("edge1");
    cluster.control.put(&app("web")).unwrap();
    let far = machine(2, "nrt1", MachineState::Started);
    cluster.worker("ams1").put(&machine(1, "ams1", MachineState::Started)).unwrap();
    cluster.worker("nrt1").put(&far).unwrap();
    let web = "web".parse().unwrap();
    eventually("both machines and the app", || {
        let view = edge.view();
        view.app(&web).is_some() && view.machines_of(&web).len() == 2
    })
    .await;

    cluster.worker("nrt1").delete(&far.key());
    eventually("the machine is gone", || state_at(&edge, 2).is_none()).await;
    assert_eq!(state_at(&edge, 1), Some(MachineState::Started));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rows_arrive_in_parts_and_take_effect_as_a_whole() {
    let cluster = Cluster::start();
    for id in 0..5_000 {
        cluster.worker("nrt1").put(&machine(id, "nrt1", MachineState::Stopped)).unwrap();
    }
    // The hub itself may have followed in several steps.
    let all = cluster.worker("nrt1").position();
    let owner = Owner::Node("nrt1".parse().unwrap());
    eventually("the hub has them", || cluster.hub.positions().get(&owner) == Some(&all)).await;
    let edge = cluster.edge("edge1");
    let mut moved = edge.subscribe();
    let mut counts = Vec::new();
    within("all machines", async {
        while counts.last() != Some(&5_000) {
            moved.changed().await.unwrap();
            counts.push(edge.view().machine_count());
        }
    })
    .await;
    assert!(counts.iter().all(|count| [0, 5_000].contains(count)), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_seen_although_the_hub_is_dead_in_any_region() {
    let cluster = Cluster::start();
    let edge = cluster.edge("edge1");
    for (id, name) in [(1, "ams1"), (2, "nrt1")] {
        cluster.worker(name).put(&machine(id, name, MachineState::Started)).unwrap();
    }
    eventually("both run", || state_at(&edge, 1).is_some() && state_at(&edge, 2).is_some()).await;

    cluster.network.set("edge1", "hub", true);
    for (id, name) in [(1, "ams1"), (2, "nrt1")] {
        cluster.worker(name).put(&machine(id, name, MachineState::Failed)).unwrap();
        eventually(name, || state_at(&edge, id) == Some(MachineState::Failed)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_closes_when_the_edge_serves_by_the_row() {
    let cluster = Cluster::start();
    let edge = cluster.edge("edge1");
    eventually("the edge is leased", || edge.is_leased()).await;

    for state in [MachineState::Started, MachineState::Stopped] {
        let row = machine(1, "ams1", state);
        let version = cluster.worker("ams1").put(&row).unwrap();
        let target = target(&row, version);
        within("the barrier", wait_for_barrier(&cluster.hub, &*cluster.book, &target, LIMIT)).await.unwrap();
        assert_eq!(state_at(&edge, 1), Some(state));
        assert!(edge.is_leased());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_on_a_row_does_not_wait_for_its_owners_later_writes() {
    let cluster = Cluster::start();
    let edge = cluster.edge("edge1");
    eventually("the edge is leased", || edge.is_leased()).await;
    let (first, second) = (machine(1, "ams1", MachineState::Started), machine(2, "ams1", MachineState::Started));
    cluster.worker("ams1").put(&first).unwrap();
    cluster.worker("ams1").put(&second).unwrap();
    let all = cluster.worker("ams1").position();
    let owner = first.rightful_owner();
    eventually("the hub has both", || cluster.hub.positions().get(&owner) == Some(&all)).await;

    let version = cluster.hub.version_of(&owner, &first.key()).unwrap();
    assert!(version < all);
    let target = target(&first, version);
    within("the barrier", wait_for_barrier(&cluster.hub, &*cluster.book, &target, LIMIT)).await.unwrap();
    assert_eq!(state_at(&edge, 1), Some(MachineState::Started));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_waits_for_an_edge_that_is_cut_off_until_its_lease_ran_out() {
    let cluster = Cluster::start();
    let (near, cut) = (cluster.edge("edge1"), cluster.edge("edge2"));
    eventually("both edges are leased", || near.is_leased() && cut.is_leased()).await;
    for server in ["hub", "ams1", "nrt1"] {
        cluster.network.set("edge2", server, true);
    }

    let row = app("late");
    let version = cluster.control.put(&row).unwrap();
    let target = target(&row, version);
    let short = Duration::from_millis(300);
    let early = wait_for_barrier(&cluster.hub, &*cluster.book, &target, short).await;
    assert!(matches!(early, Err(BarrierError::TimedOut { .. })), "{early:?}");
    assert!(early.unwrap_err().to_string().contains("edge2"));

    within("the barrier", wait_for_barrier(&cluster.hub, &*cluster.book, &target, LIMIT)).await.unwrap();
    assert!(!cut.is_leased() && near.is_leased());
    assert!(near.view().app(&"late".parse().unwrap()).is_some());

    for server in ["hub", "ams1", "nrt1"] {
        cluster.network.set("edge2", server, false);
    }
    eventually("the healed edge catches up", || cut.is_leased()).await;
    assert!(cut.view().app(&"late".parse().unwrap()).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_nodes_rows_leave_and_its_new_epochs_come() {
    let cluster = Cluster::start();
    let edge = cluster.edge("edge1");
    cluster.worker("ams1").put(&machine(1, "ams1", MachineState::Started)).unwrap();
    eventually("it runs", || state_at(&edge, 1).is_some()).await;

    cluster.control.put(&node("ams1", "ams", 2)).unwrap();
    eventually("the fenced rows are gone", || state_at(&edge, 1).is_none()).await;

    let mut log = OwnerLog::new(Owner::Node("ams1".parse().unwrap()), 2);
    log.put(&machine(3, "ams1", MachineState::Started)).unwrap();
    cluster.worker("ams1").replace(log);
    eventually("the new life's rows are there", || state_at(&edge, 3).is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_numbers_went_back_is_told_so() {
    let cluster = Cluster::start();
    let edge = cluster.edge("edge1");
    let worker = cluster.worker("ams1");
    for state in [MachineState::Started, MachineState::Stopped] {
        worker.put(&machine(1, "ams1", state)).unwrap();
    }
    eventually("the last state", || state_at(&edge, 1) == Some(MachineState::Stopped)).await;

    worker.replace(OwnerLog::new(Owner::Node("ams1".parse().unwrap()), 1));
    cluster.network.set("edge1", "ams1", false);
    let mut lost = worker.lost_sequence();
    within("the owner is told", lost.wait_for(|lost| *lost)).await.unwrap();
}

struct Open;

impl Seal for Open {
    fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(plain.to_vec())
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(sealed.to_vec())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_edge_serves_from_disk_when_nobody_answers() {
    let cluster = Cluster::start();
    let edge = cluster.edge("edge1");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalogue");
    let stop = CancellationToken::new();
    let hours = Duration::from_secs(3_600);
    let saving = tokio::spawn(keep_saved(edge.clone(), path.clone(), Arc::new(Open), hours, stop.clone()));
    cluster.worker("nrt1").put(&machine(2, "nrt1", MachineState::Stopped)).unwrap();
    eventually("the machine is known", || state_at(&edge, 2).is_some()).await;
    stop.cancel();
    within("the last save", saving).await.unwrap();

    let restored = ReplicaHandle::new(Replica::restore(load(&path, &Open).unwrap()), boot_clock());
    assert_eq!(state_at(&restored, 2), Some(MachineState::Stopped));
    assert_eq!(restored.positions(), edge.positions());
    assert!(!restored.is_leased());
}
