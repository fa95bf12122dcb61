//! Who lives in the simulated world: the store that the control processes share, control processes
//! with their hubs, workers, edges. Plain data; `world.rs` moves it.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_catalogue::Snapshot;
use atoll_catalogue::protocol::barrier::{Book, HubId, Roster};
use atoll_catalogue::protocol::lease::EdgeLease;
use atoll_catalogue::protocol::saved::SavedOwner;
use atoll_catalogue::protocol::series::Session;
use atoll_catalogue::protocol::{Hub, OwnerLog, Positions, Replica};
use atoll_model::address::NetworkId;
use atoll_model::row::{AppRow, MachineRow, NodeRow, NodeState, Row};
use atoll_model::{MachineId, MachineState, MachineVersion, NodeName, Owner, RegionCode};

use crate::net::{Clock, Host};

pub const REGIONS: [&str; 3] = ["ams", "nrt", "ord"];
pub const APPS: [&str; 3] = ["alpha", "beta", "gamma"];

/// Records that both control processes read and write, one transaction at a time.
pub struct Store {
    pub control: OwnerLog,
    pub book: Book,
    pub nodes: BTreeMap<NodeName, NodeRow>,
    pub barriers: u64,
}

/// What every process has.
pub struct Life {
    pub up: bool,
    /// Counts lives; messages to an earlier life are lost.
    pub number: u64,
    pub clock: Clock,
}

/// A server's end of a watch stream.
pub struct Served {
    pub session: Session,
    pub heard_at: Duration,
    pub beat_at: Duration,
}

/// A client's end.
pub struct Watched {
    pub stream: u64,
    pub heard_at: Duration,
}

pub struct Control {
    pub life: Life,
    pub id: HubId,
    pub hub: Hub,
    pub from_store: Session,
    pub roster: Roster,
    pub served: BTreeMap<u64, Served>,
    pub watched: BTreeMap<Host, Watched>,
    pub renewed_at: Duration,
}

pub struct Worker {
    pub life: Life,
    pub name: NodeName,
    /// Durable.
    pub epoch: u64,
    pub machines: BTreeMap<MachineId, MachineRow>,
    /// A backup of the durable part.
    pub old_disk: (u64, BTreeMap<MachineId, MachineRow>),
    pub log: OwnerLog,
    pub needs_epoch: bool,
    pub served: BTreeMap<u64, Served>,
    /// How far the wall clock is off, from which a restarted log takes its first sequence.
    pub wall_offset: Duration,
}

pub struct Edge {
    pub life: Life,
    pub name: NodeName,
    pub region: RegionCode,
    pub replica: Replica,
    /// What requests are routed by: follows the replica after a moment.
    pub served: Snapshot,
    pub serves: Positions,
    pub swapping: bool,
    pub lease: EdgeLease,
    pub watched: BTreeMap<Host, Watched>,
    pub hub: usize,
    pub hub_since: Duration,
    pub heard_at: Duration,
    pub acked_at: Duration,
    pub old_disk: BTreeMap<Owner, SavedOwner>,
}

impl Worker {
    pub fn new(name: NodeName, epoch: u64, life: Life, wall_offset: Duration) -> Self {
        let log = OwnerLog::new(Owner::Node(name.clone()), epoch);
        Self {
            life,
            name,
            epoch,
            machines: BTreeMap::new(),
            old_disk: (epoch, BTreeMap::new()),
            log,
            needs_epoch: false,
            served: BTreeMap::new(),
            wall_offset,
        }
    }

    /// The lowest private address that no machine of this node has: reused as soon as it is free.
    pub fn free_address(&self) -> [u8; 4] {
        let taken = |last: &u8| self.machines.values().any(|row| row.private_ipv4.octets()[3] == *last);
        [172, 19, 0, (2..=254).find(|last| !taken(last)).expect("few machines")]
    }
}

pub fn app_row(name: &str, stamp: u64) -> Row {
    Row::App(AppRow {
        name: name.parse().unwrap(),
        org: "acme".parse().unwrap(),
        network: NetworkId(1),
        primary_region: None,
        hostnames: vec![format!("s{stamp}.{name}.example")],
        addresses: Vec::new(),
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    })
}

pub fn node_row(name: &NodeName, region: &str, epoch: u64) -> NodeRow {
    NodeRow {
        name: name.clone(),
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
    }
}

pub fn machine_row(
    id: MachineId,
    app: &str,
    node: &NodeName,
    address: [u8; 4],
    version: u64,
    stamp: u64,
) -> MachineRow {
    MachineRow {
        id,
        app: app.parse().unwrap(),
        network: NetworkId(1),
        node: node.clone(),
        region: "ams".parse().unwrap(),
        version: MachineVersion::from_parts(version, 0),
        state: MachineState::Started,
        cordoned: false,
        private_ipv4: address.into(),
        private_ipv6: "fdaa:0:1::2".parse().unwrap(),
        process_group: "app".into(),
        services: std::sync::Arc::new([]),
        changed_at_ms: stamp,
        metadata: Default::default(),
        skip_dns: false,
    }
}
