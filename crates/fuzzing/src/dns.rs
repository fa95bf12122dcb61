//! A small world for DNS questions to be about: a private network and a signed public zone.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, LazyLock};

use atoll_catalogue::Snapshot;
use atoll_dns::internal::{Here, Internal, View};
use atoll_dns::public::{self, Kind, NameServer, Places, Public, Signer, Zone};
use atoll_model::address::{NetworkId, machine_address};
use atoll_model::row::{AppRow, ChallengeRow, NodeRow, NodeState};
use atoll_model::{Row, RowKey, row};

const NETWORK: NetworkId = NetworkId(0x18);
const MACHINE: &str = r#"{"kind": "machine", "id": "73d8d46dbee589", "app": "web", "network": 24, "node": "ams1",
    "region": "ams", "version": "01HF7YAT00000000000000000A", "state": "started", "private_ipv4": "172.19.0.2",
    "private_ipv6": "fdaa:0:18:0:1:0:1:2", "process_group": "app", "services": [],
    "metadata": [["color", "blue"]]}"#;

struct World {
    private: Internal,
    public: Public,
}

/// Everything here is written above, so it is what it should be.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let here = || Here { node: "ams1".parse().expect("a node"), region: "ams".parse().expect("a region") };
    let key = RowKey::Machine("73d8d46dbee589".parse().expect("an id"));
    let owner = row::Owner::Node("ams1".parse().expect("a node"));
    let app = Row::App(AppRow {
        name: "web".parse().expect("a name"),
        org: "acme".parse().expect("an organization"),
        network: NETWORK,
        primary_region: None,
        hostnames: vec!["*.a.zone.example".into(), "deep.b.c.zone.example".into()],
        addresses: vec!["fdaa:0:18:0:1::5".parse().expect("an address")],
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    });
    let node = Row::Node(NodeRow {
        name: "ams1".parse().expect("a node"),
        region: "ams".parse().expect("a region"),
        state: NodeState::Active,
        epoch: 1,
        backhaul: None,
        worker_rpc: None,
        public_addresses: vec![[192, 0, 2, 1].into()],
        egress_addresses: Vec::new(),
        mesh: None,
        gateway: None,
        zones: Vec::new(),
    });
    let machine = Row::decode(&key, &owner, MACHINE.as_bytes()).expect("a machine's row");
    let challenge = ChallengeRow { host: "web.zone.example".into(), values: vec!["proof".to_owned()] };
    let catalogue = Snapshot::from_rows([app, node, machine, Row::Challenge(challenge)]);
    let view = View { catalogue: catalogue.clone(), reach: Arc::default(), here: here(), api: None };
    let origin: atoll_dns::wire::Name = "zone.example".parse().expect("a name");
    let servers = vec![NameServer { name: origin, addresses: vec![[192, 0, 2, 53].into()] }];
    let signer = Signer::generate().and_then(|key| Signer::from_pkcs8(&key)).expect("a key");
    let zone = Zone::new(origin, Kind::AppDomain, servers, 1).expect("a zone").signed(signer);
    let places = Places::parse("192.0.2.0/24,ams\n2001:db8::/32,ord\n").expect("a table");
    let public_view = public::View::new(catalogue, &Default::default(), &here(), Arc::default(), Arc::new(places));
    World { private: Internal::new(view, None), public: Public::new([zone], public_view) }
});

/// A packet from a machine, and from anybody.
pub fn packet(bytes: &[u8]) {
    let now = atoll_dns::serve::Now::read();
    let machine: Ipv6Addr = machine_address(NETWORK, 1, 1);
    atoll_dns::fuzz::packet(&WORLD.private, bytes, IpAddr::V6(machine), now);
    atoll_dns::fuzz::packet(&WORLD.public, bytes, IpAddr::from([192, 0, 2, 200]), now);
}
