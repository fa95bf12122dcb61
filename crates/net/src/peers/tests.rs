use std::sync::Arc;

use atoll_model::MachineId;
use atoll_model::address::machine_address;
use atoll_model::row::{AppRow, DeviceRow, MeshEnd, Row};
use proptest::prelude::*;

use super::*;

fn key(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

fn node(name: &str, mesh: Option<u8>, state: NodeState) -> Row {
    Row::Node(NodeRow {
        name: name.parse().unwrap(),
        region: "ams".parse().unwrap(),
        state,
        epoch: 1,
        backhaul: None,
        worker_rpc: None,
        public_addresses: Vec::new(),
        egress_addresses: Vec::new(),
        gateway: None,
        zones: Vec::new(),
        mesh: mesh.map(|number| MeshEnd {
            public_key: key(number).to_string(),
            endpoint: ([192, 0, 2, number], 51820).into(),
            rpc: Some(([192, 0, 2, number], 4285).into()),
        }),
    })
}

fn app(name: &str, network: u32) -> Row {
    Row::App(AppRow {
        name: name.parse().unwrap(),
        org: "acme".parse().unwrap(),
        network: NetworkId(network),
        primary_region: None,
        hostnames: Vec::new(),
        addresses: Vec::new(),
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    })
}

fn address(network: u32, number: u32) -> Ipv6Addr {
    machine_address(NetworkId(network), 1, number)
}

fn machine(number: u32, app: &str, network: u32, node: &str, state: MachineState) -> MachineRow {
    MachineRow {
        id: MachineId::from_random(u64::from(number)),
        app: app.parse().unwrap(),
        network: NetworkId(network),
        node: node.parse().unwrap(),
        region: "ams".parse().unwrap(),
        version: "01JNRQ9VVKJ7HZFMJWJB3M3RYN".parse().unwrap(),
        state,
        cordoned: false,
        private_ipv4: [10, 0, 0, 2].into(),
        private_ipv6: address(network, number),
        process_group: String::new(),
        services: Arc::new([]),
        changed_at_ms: 0,
        metadata: Arc::new([]),
        skip_dns: false,
    }
}

const STARTED: MachineState = MachineState::Started;
const ACTIVE: NodeState = NodeState::Active;

fn wanted_of(rows: impl IntoIterator<Item = Row>) -> Wanted {
    wanted(&Snapshot::from_rows(rows), &"here".parse().unwrap(), key(1))
}

#[test]
fn peers_are_the_servers_that_are_part_of_the_platform_and_have_told_their_key() {
    let rows = [
        node("here", Some(1), ACTIVE),
        node("a", Some(2), ACTIVE),
        node("draining", Some(3), NodeState::Draining),
        node("revoked", Some(4), NodeState::Revoked),
        node("silent", None, ACTIVE),
        node("thief", Some(1), ACTIVE),
        node("z-double", Some(2), ACTIVE),
    ];
    let wanted = wanted_of(rows);
    let names: Vec<_> = wanted.peers.values().map(|peer| peer.node.to_string()).collect();
    assert_eq!(names, ["a", "draining"]);
    assert_eq!(wanted.addresses, HashMap::from([2, 3].map(|n| (node_address(&key(n).0), key(n)))));
}

#[test]
fn only_addresses_of_networks_with_a_machine_here_are_allowed() {
    let mut rows = vec![node("here", Some(1), ACTIVE), node("a", Some(2), ACTIVE)];
    rows.extend([app("web", 7), app("db", 7), app("foreign", 8), app("gone", 9)]);
    rows.extend(
        [
            machine(1, "web", 7, "here", MachineState::Stopped),
            machine(2, "web", 7, "a", STARTED),
            machine(3, "db", 7, "a", MachineState::Stopped),
            machine(4, "web", 7, "a", MachineState::Destroyed),
            machine(5, "foreign", 8, "a", STARTED),
            machine(6, "gone", 9, "here", MachineState::Destroyed),
            machine(7, "gone", 9, "a", STARTED),
        ]
        .map(Row::Machine),
    );
    let mut addresses = wanted_of(rows).addresses;
    addresses.remove(&node_address(&key(2).0));
    assert_eq!(addresses, HashMap::from([2, 3].map(|n| (address(7, n), key(2)))));
}

fn device(number: u32, network: u32, gateway: &str) -> Row {
    Row::Device(DeviceRow {
        name: format!("device-{number}").parse().unwrap(),
        org: "acme".parse().unwrap(),
        network: NetworkId(network),
        address: address(network, number),
        public_key: "a key".to_owned(),
        gateway: gateway.parse().unwrap(),
    })
}

#[test]
fn devices_are_reached_through_their_gateway_which_carries_their_networks() {
    let mut rows = vec![node("here", Some(1), ACTIVE), node("a", Some(2), ACTIVE)];
    rows.extend([app("web", 7), app("db", 8)]);
    rows.push(Row::Machine(machine(1, "web", 7, "here", STARTED)));
    rows.push(Row::Machine(machine(2, "db", 8, "a", STARTED)));
    // Of a network that no device and no machine here is in.
    rows.push(Row::Machine(machine(3, "db", 9, "a", STARTED)));
    // A server says that a machine of its own has a device's address.
    rows.push(Row::Machine(machine(4, "web", 7, "a", STARTED)));
    rows.push(node("b", Some(3), ACTIVE));
    rows.extend([device(4, 7, "b"), device(5, 8, "here"), device(6, 8, "a"), device(7, 9, "b")]);
    let mut addresses = wanted_of(rows).addresses;
    addresses.retain(|address, _| network_of(*address) != Some(NetworkId(0)));
    let expected = [(address(7, 4), key(3)), (address(8, 2), key(2)), (address(8, 6), key(2))];
    assert_eq!(addresses, HashMap::from(expected));
}

#[test]
fn addresses_are_of_the_region_that_their_server_is_in() {
    let mut far = node("b", Some(3), ACTIVE);
    if let Row::Node(row) = &mut far {
        row.region = "nrt".parse().unwrap();
    }
    let mut rows = vec![node("here", Some(1), ACTIVE), node("a", Some(2), ACTIVE), far, app("web", 7)];
    // A machine's row says "ams" of itself, wherever it is.
    let machines = [(1, "here"), (2, "a"), (3, "b")].map(|(number, node)| machine(number, "web", 7, node, STARTED));
    rows.extend(machines.map(Row::Machine));
    rows.extend([device(4, 7, "a"), device(5, 7, "b"), device(6, 7, "here")]);
    let wanted = wanted_of(rows);
    assert_eq!(wanted.addresses_in("ams".parse().unwrap()), [2, 4].map(|number| address(7, number)).into());
    assert_eq!(wanted.addresses_in("nrt".parse().unwrap()), [3, 5].map(|number| address(7, number)).into());
}

#[test]
fn a_row_cannot_take_addresses_of_another_network() {
    let mut liar = machine(2, "web", 7, "a", STARTED);
    liar.private_ipv6 = address(8, 2);
    let rows = [node("a", Some(2), ACTIVE), app("web", 7)];
    let machines = [machine(1, "web", 7, "here", STARTED), liar].map(Row::Machine);
    assert_eq!(wanted_of(rows.into_iter().chain(machines)).addresses.len(), 1);
}

/// Some state: peers by number, addresses each of one of them.
fn state() -> impl Strategy<Value = Wanted> {
    let peers = prop::collection::btree_map(1u8..6, 0u8..3, 0..5);
    (peers, prop::collection::vec((0u32..12, any::<prop::sample::Index>()), 0..12)).prop_map(|(peers, addresses)| {
        let keys: Vec<u8> = peers.keys().copied().collect();
        let owned = |(number, index): (u32, prop::sample::Index)| {
            (!keys.is_empty()).then(|| (address(7, number), key(keys[index.index(keys.len())])))
        };
        let endpoint = |at: u8| ([192, 0, 2, at], 51820).into();
        let peer = |(number, at): (u8, u8)| {
            let (node, region) = (format!("n{number}").parse().unwrap(), "ams".parse().unwrap());
            (key(number), Peer { node, region, endpoint: endpoint(at), rpc: None })
        };
        let addresses = addresses.into_iter().filter_map(owned).collect();
        Wanted { addresses, peers: peers.into_iter().map(peer).collect() }
    })
}

/// What a link does with the steps.
fn perform(have: &Wanted, steps: Steps, names: &Wanted) -> Wanted {
    let mut link = have.clone();
    for key in steps.gone {
        link.peers.remove(&key);
        link.addresses.retain(|_, holder| *holder != key);
    }
    for new in steps.new {
        assert!(new.allowed.is_empty());
        let named = names.peers[&new.public_key].clone();
        link.peers.insert(new.public_key, Peer { endpoint: new.endpoint.unwrap(), ..named });
    }
    for (key, endpoint) in steps.moved {
        link.peers.get_mut(&key).unwrap().endpoint = endpoint;
    }
    for change in steps.addresses {
        assert!(link.peers.contains_key(&change.peer()), "an address of an unknown peer");
        match change {
            AddressChange::Add { peer, prefix } => drop(link.addresses.insert(v6(prefix), peer)),
            AddressChange::Remove { peer, prefix } => {
                if link.addresses.get(&v6(prefix)) == Some(&peer) {
                    link.addresses.remove(&v6(prefix));
                }
            }
        }
    }
    link
}

fn v6(prefix: ipnet::IpNet) -> Ipv6Addr {
    match prefix.addr() {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => panic!("{address} is none of ours"),
    }
}

proptest! {
    #[test]
    fn the_steps_lead_from_any_state_to_any_other(have in state(), want in state()) {
        let steps = want.after(&have);
        prop_assert_eq!(perform(&have, steps, &want), want.clone());
        prop_assert_eq!(want.after(&want), Steps::default());
    }

    #[test]
    fn all_of_it_at_once_is_the_same(want in state()) {
        let desired = want.desired(&PrivateKey::from_bytes([9; 32]));
        let peers: BTreeMap<_, _> = desired.peers.iter().map(|peer| (peer.public_key, peer.endpoint.unwrap())).collect();
        prop_assert_eq!(peers, want.peers.iter().map(|(key, peer)| (*key, peer.endpoint)).collect());
        let allowed = desired.peers.iter().flat_map(|peer| peer.allowed.iter().map(|net| (v6(*net), peer.public_key)));
        prop_assert_eq!(allowed.collect::<HashMap<_, _>>(), want.addresses);
    }
}
