//! Nodes with real edges over one catalogue, and links between them that can be slow or cut.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_catalogue::Snapshot;
use atoll_model::address::NetworkId;
use atoll_model::row::{AppRow, CertificateRow, MachineRow, NodeRow, NodeState, ServiceRow};
use atoll_model::service::{Handler, LoadBucket, Port, Protocol, Service};
use atoll_model::{AppName, MachineId, MachineState, MachineVersion, NodeName, Row, RowKey};
use atoll_proxy::surroundings::{AccessEntry, AccessLog, PlatformApi, SharedRoutes, Surroundings};
use atoll_proxy::{EdgeConfig, EdgeHandle, Listener, Listeners};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::identity::{Authority, NodeTls};
use super::machine::Machine;
use super::worker::Worker;

/// All rows, and every node's copy of them.
#[derive(Default)]
pub struct Catalogue {
    rows: Mutex<HashMap<RowKey, Row>>,
    views: Mutex<Vec<View>>,
    /// Views that are frozen get nothing new.
    links: Mutex<HashMap<(NodeName, NodeName), SocketAddr>>,
}

struct View {
    node: NodeName,
    routes: Arc<SharedRoutes>,
    frozen: Arc<AtomicBool>,
}

impl Catalogue {
    pub fn put(&self, row: Row) {
        self.rows.lock().unwrap().insert(row.key(), row);
        self.publish();
    }

    pub fn change_machine(&self, id: MachineId, change: impl FnOnce(&mut MachineRow)) {
        {
            let mut rows = self.rows.lock().unwrap();
            let Some(Row::Machine(row)) = rows.get_mut(&RowKey::Machine(id)) else { return };
            change(row);
            row.changed_at_ms += 1;
        }
        self.publish();
    }

    pub fn change_node(&self, name: &str, change: impl FnOnce(&mut NodeRow)) {
        {
            let mut rows = self.rows.lock().unwrap();
            let Some(Row::Node(row)) = rows.get_mut(&RowKey::Node(name.parse().unwrap())) else { return };
            change(row);
        }
        self.publish();
    }

    pub fn publish(&self) {
        for view in self.views.lock().unwrap().iter().filter(|view| !view.frozen.load(Ordering::SeqCst)) {
            let mut rows: Vec<Row> = self.rows.lock().unwrap().values().cloned().collect();
            for row in &mut rows {
                if let Row::Node(node) = row
                    && let Some(address) = self.links.lock().unwrap().get(&(view.node.clone(), node.name.clone()))
                {
                    node.backhaul = Some(*address);
                }
            }
            view.routes.publish(Snapshot::from_rows(rows));
        }
    }
}

pub struct Platform {
    pub catalogue: Arc<Catalogue>,
    pub authority: Authority,
    next_machine: AtomicU64,
}

pub struct Node {
    pub name: NodeName,
    pub region: &'static str,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub backhaul: SocketAddr,
    /// Stands for port 5432.
    pub tcp: SocketAddr,
    pub private: SocketAddr,
    pub worker: Arc<Worker>,
    /// From the next edge process on.
    pub api: Option<Arc<dyn PlatformApi>>,
    pub edge: Option<EdgeHandle>,
    pub log: Arc<Log>,
    pub frozen: Arc<AtomicBool>,
    /// Held like a supervisor would: connections wait here while no edge runs.
    pub sockets: [StdListener; 5],
}

#[derive(Default)]
pub struct Log {
    pub entries: Mutex<Vec<AccessEntry>>,
}

impl AccessLog for Log {
    fn record(&self, entry: &AccessEntry) {
        self.entries.lock().unwrap().push(entry.clone());
    }
}

/// A service as `[http_service]` makes it, on 80 and 443, starting on request.
pub fn http_service(internal_port: u16) -> Service {
    Service {
        protocol: Protocol::Tcp,
        internal_port,
        ports: vec![
            Port { port: Some(80), handlers: vec![Handler::Http], ..Port::default() },
            Port { port: Some(443), handlers: vec![Handler::Tls, Handler::Http], ..Port::default() },
        ],
        concurrency: None,
        autostop: None,
        autostart: None,
        min_machines_running: None,
        idle_timeout: None,
        checks: Vec::new(),
        force_instance_key: None,
        force_instance_description: None,
    }
}

impl Platform {
    pub fn new() -> Self {
        Self { catalogue: Arc::default(), authority: Authority::new(), next_machine: AtomicU64::new(1) }
    }

    pub fn app(&self, name: &str) -> AppName {
        self.app_with(name, |_| {})
    }

    pub fn app_with(&self, name: &str, change: impl FnOnce(&mut AppRow)) -> AppName {
        let name: AppName = name.parse().unwrap();
        let mut row = AppRow {
            name: name.clone(),
            org: "personal".parse().unwrap(),
            network: NetworkId(1),
            primary_region: None,
            hostnames: Vec::new(),
            addresses: Vec::new(),
            shared_addresses: Vec::new(),
            local_addresses: Vec::new(),
        };
        change(&mut row);
        self.catalogue.put(Row::App(row));
        name
    }

    pub fn certificate(&self, host: &str) {
        let issued = self.authority.issue(host);
        self.catalogue.put(Row::Certificate(CertificateRow {
            host: host.into(),
            chain_pem: issued.chain_pem,
            key_pem: issued.key_pem,
            not_after: u64::MAX,
        }));
    }

    pub fn node(&self, name: &str, region: &'static str) -> Node {
        self.node_with(name, region, |_| {})
    }

    /// A node with a running edge.
    pub fn node_with(&self, name: &str, region: &'static str, change: impl FnOnce(&mut EdgeConfig)) -> Node {
        let bind = || StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sockets = [bind(), bind(), bind(), bind(), bind()];
        let mut node = Node {
            name: name.parse().unwrap(),
            region,
            http: sockets[0].local_addr().unwrap(),
            https: sockets[1].local_addr().unwrap(),
            backhaul: sockets[2].local_addr().unwrap(),
            tcp: sockets[3].local_addr().unwrap(),
            private: sockets[4].local_addr().unwrap(),
            worker: Worker::new(),
            api: None,
            edge: None,
            log: Arc::default(),
            frozen: Arc::default(),
            sockets,
        };
        *node.worker.catalogue.lock().unwrap() = Arc::downgrade(&self.catalogue);
        self.start_edge(&mut node, change);
        self.catalogue.put(Row::Node(NodeRow {
            name: node.name.clone(),
            region: region.parse().unwrap(),
            state: NodeState::Active,
            epoch: 1,
            backhaul: Some(node.backhaul),
            worker_rpc: None,
            public_addresses: Vec::new(),
            egress_addresses: Vec::new(),
            mesh: None,
            gateway: None,
            zones: Vec::new(),
        }));
        node
    }

    /// A new edge process on the node's sockets.
    pub fn start_edge(&self, node: &mut Node, change: impl FnOnce(&mut EdgeConfig)) {
        let routes = Arc::new(SharedRoutes::new(Snapshot::default()));
        self.catalogue.views.lock().unwrap().push(View {
            node: node.name.clone(),
            routes: routes.clone(),
            frozen: node.frozen.clone(),
        });
        self.catalogue.publish();
        let mut config = EdgeConfig::new(node.name.clone(), node.region.parse().unwrap());
        config.cores = 1;
        config.timeouts.probe_interval = Duration::from_millis(50);
        config.timeouts.idle_check = Duration::from_millis(50);
        config.timeouts.backoff_min = Duration::from_millis(20);
        config.public_https_port = node.https.port();
        change(&mut config);
        let surroundings = Surroundings {
            routes,
            worker: node.worker.clone(),
            backhaul: Some(NodeTls::new(&self.authority, node.name.as_str())),
            access_log: node.log.clone(),
            devices: None,
            api: node.api.clone(),
        };
        let [http, https, backhaul, tcp, private] = &node.sockets;
        let listeners = Listeners {
            http: vec![Listener { socket: http.try_clone().unwrap(), external_port: 80 }],
            https: vec![Listener { socket: https.try_clone().unwrap(), external_port: 443 }],
            tcp: vec![Listener { socket: tcp.try_clone().unwrap(), external_port: 5432 }],
            private: vec![private.try_clone().unwrap()],
            backhaul: vec![backhaul.try_clone().unwrap()],
        };
        node.edge = Some(atoll_proxy::start(config, surroundings, listeners).unwrap());
    }

    /// Puts a machine on a node, in the state it is in.
    pub fn host(&self, node: &Node, app: &AppName, machine: &Arc<Machine>) -> MachineId {
        self.host_with(node, app, machine, |_| {})
    }

    pub fn host_with(
        &self,
        node: &Node,
        app: &AppName,
        machine: &Arc<Machine>,
        change: impl FnOnce(&mut MachineRow),
    ) -> MachineId {
        let id = MachineId::from_random(self.next_machine.fetch_add(1, Ordering::SeqCst));
        let running = machine.is_running();
        let mut row = MachineRow {
            id,
            app: app.clone(),
            network: NetworkId(1),
            node: node.name.clone(),
            region: node.region.parse().unwrap(),
            version: MachineVersion::from_parts(1, 1),
            state: if running { MachineState::Started } else { MachineState::Stopped },
            cordoned: false,
            private_ipv4: machine.address,
            private_ipv6: Ipv6Addr::LOCALHOST,
            process_group: "app".into(),
            services: Arc::new([ServiceRow {
                service: http_service(machine.port),
                healthy: true,
                load: LoadBucket::BelowSoft,
            }]),
            changed_at_ms: 1,
            metadata: Default::default(),
            skip_dns: false,
        };
        change(&mut row);
        node.worker.machines.lock().unwrap().insert(id, machine.clone());
        self.catalogue.put(Row::Machine(row));
        id
    }

    /// Makes `from` reach `to` through a link that can be slow or cut.
    pub async fn link(&self, from: &Node, to: &Node) -> Arc<Link> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let link = Arc::new(Link::default());
        let address = listener.local_addr().unwrap();
        self.catalogue.links.lock().unwrap().insert((from.name.clone(), to.name.clone()), address);
        self.catalogue.publish();
        let (there, relay) = (to.backhaul, link.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = tokio::net::TcpStream::connect(there).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(relay.clone().carry(near_read, far_write));
                tokio::spawn(relay.clone().carry(far_read, near_write));
            }
        });
        link
    }
}

/// One link's properties; change them at any time.
#[derive(Default)]
pub struct Link {
    pub delay_ms: AtomicU64,
    /// Swallows everything, like a cut cable.
    pub cut: AtomicBool,
}

impl Link {
    async fn carry(self: Arc<Self>, mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst))).await;
            if self.cut.load(Ordering::SeqCst) {
                continue;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }
}

impl Node {
    pub fn edge(&self) -> &EdgeHandle {
        self.edge.as_ref().unwrap()
    }

    /// Waits until this node's edge has measured the way to `other`.
    pub async fn reaches(&self, other: &Node) {
        let paths = self.edge().reachability();
        super::eventually("the other node is reachable", async || paths.load().round_trip(&other.name).is_some()).await;
    }
}
