//! Two hosts with a mesh between them, machines of two networks on both, one of them hostile, and
//! somebody on the near host's local network.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_model::MachineId;
use atoll_model::address::{NetworkId, machine_address};
use atoll_worker::network::{HostNetworks, MeshFace, NetworkConfig};
use atoll_worker::seams::{MachineNetworks, NetworkPlan};

use super::super::host::ip;
use super::super::neighbour::{Neighbour, inside, lay_mesh};
use super::capture;

/// Where something may be seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// The near host itself, behind its packet filter.
    Near,
    Far,
    /// The mesh, at the far host's end.
    Mesh,
    /// The local network of the near host.
    Outside,
    /// A machine of the hostile one's network on the same host.
    Mate,
    /// A machine of another network there.
    Stranger,
    FarMate,
    FarStranger,
}

pub const NETWORK: NetworkId = NetworkId(7);
pub const OTHER_NETWORK: NetworkId = NetworkId(8);
pub const NEAR_NODE: Ipv6Addr = Ipv6Addr::new(0xfdaa, 0, 0, 1, 0, 0, 0, 1);
pub const FAR_NODE: Ipv6Addr = Ipv6Addr::new(0xfdaa, 0, 0, 1, 0, 0, 0, 2);
pub const NEAR_UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
pub const PROBES: u16 = 4284;
/// Where machines listen.
pub const PORT: u16 = 7_777;

const NEAR_INSTANCE: u32 = 0x1a2b_3c4d;
const FAR_INSTANCE: u32 = 0x5e6f_7a8b;
const MARK: u32 = 0x4154;
const UPLINK_MAC: &str = "02:00:00:00:00:0a";

/// Hardware addresses: of who sends and of whom it sends to.
#[derive(Clone, Copy)]
pub struct Ends {
    pub from: [u8; 6],
    pub to: [u8; 6],
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    Machine,
    /// Another node, by the mesh.
    Mesh,
    /// A neighbour of the near host on its local network.
    Outside,
}

impl Origin {
    pub fn ends(self) -> Ends {
        let mesh = [2, 0, 0, 0, 0, 1];
        match self {
            // Of the first slot.
            Self::Machine => Ends { from: [2, 0x61, 0x74, 0, 0, 2], to: [2, 0x61, 0x74, 0, 0, 1] },
            Self::Mesh => Ends { from: mesh, to: mesh },
            Self::Outside => Ends { from: [2, 0, 0, 0, 0, 0x0b], to: [2, 0, 0, 0, 0, 0x0a] },
        }
    }
}

/// Addresses of a machine.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

pub struct Stage {
    pub hostile: Addresses,
    pub mate: Addresses,
    pub stranger: Addresses,
    pub far_mate: Addresses,
    pub far_stranger: Addresses,
    /// What machines send IPv4 packets through.
    pub gateway: Ipv4Addr,
    hostile_wire: OwnedFd,
    mesh_wire: OwnedFd,
    outside_wire: OwnedFd,
    // Machines and hosts live for as long as these do; ports that are open answer with no error.
    _near: HostNetworks,
    _far: HostNetworks,
    _neighbour: Neighbour,
    _ports: Vec<UdpSocket>,
}

fn plan(slot: u32, host: u32, network: NetworkId) -> NetworkPlan {
    let machine = MachineId::from_random(u64::from(host) << 32 | u64::from(slot));
    NetworkPlan { machine, slot, network, ipv6: machine_address(network, host, slot + 1) }
}

fn face(instance: u32, address: Ipv6Addr) -> MeshFace {
    MeshFace { link: format!("atm{instance:08x}"), address, mark: MARK, devices: format!("atu{instance:08x}") }
}

async fn open(state: PathBuf, instance: u32, face: MeshFace, plans: Vec<NetworkPlan>) -> (HostNetworks, Vec<PathBuf>) {
    std::fs::create_dir(&state).unwrap();
    let config = NetworkConfig { instance, state_dir: state, block: None, ready_namespaces: 1, mesh: Some(face) };
    let networks = HostNetworks::open(config).await.unwrap();
    networks.reconcile(&[]).await.unwrap();
    let mut machines = Vec::new();
    for plan in plans {
        networks.admit(plan.network).await.unwrap();
        machines.push(networks.attach(&plan).await.unwrap());
    }
    (networks, machines)
}

/// The node's own address in the mesh, and the way to machines of the other host.
fn settle(host: &str, face: &MeshFace, others: &[NetworkPlan]) {
    let MeshFace { link, address, .. } = face;
    ip(&format!("{host}-6 addr add {address}/64 dev {link} nodad"));
    ip(&format!("{host}-6 rule add fwmark {MARK} lookup 4154"));
    for other in others {
        ip(&format!("{host}-6 route add {}/128 dev {link} table 4154", other.ipv6));
    }
}

/// Empties the near host's chains that drop; those that lead packets stay.
pub fn lift_rules() {
    let chains =
        ["source", "machine_source", "mesh_source", "from_mesh", "node", "mesh_node", "transit", "untranslated"];
    for chain in chains {
        let table = format!("atoll-{NEAR_INSTANCE:08x}");
        let status = Command::new("nft").args(["flush", "chain", "inet", &table, chain]).status().unwrap();
        assert!(status.success(), "cannot empty the chain {chain}");
    }
}

impl Stage {
    /// On the test's own host, which becomes the near one; what listens comes beside it.
    pub async fn new(state: &Path) -> (Self, Vec<(Place, OwnedFd)>) {
        ip("netns add outside");
        ip(&format!("link add uplink address {UPLINK_MAC} type veth peer name eth0 netns outside"));
        for (host, link, v4, v6) in
            [("", "uplink", NEAR_UPLINK, "2001:db8::1"), ("-n outside ", "eth0", OUTSIDE, "2001:db8::9")]
        {
            ip(&format!("{host}addr add {v4}/24 dev {link}"));
            ip(&format!("{host}addr add {v6}/64 dev {link} nodad"));
            ip(&format!("{host}link set {link} up"));
        }
        // Whatever leads nowhere else is led there, unless it is held back.
        ip(&format!("-6 route add default via {OUTSIDE_V6}"));
        let near_plans = vec![plan(0, 1, NETWORK), plan(1, 1, NETWORK), plan(2, 1, OTHER_NETWORK)];
        let far_plans = vec![plan(0, 2, NETWORK), plan(1, 2, OTHER_NETWORK)];
        let neighbour = Neighbour::new("far");
        let (near_face, far_face) = (face(NEAR_INSTANCE, NEAR_NODE), face(FAR_INSTANCE, FAR_NODE));
        lay_mesh(&near_face.link, &far_face.link, &neighbour);
        settle("", &near_face, &far_plans);
        settle("-n far ", &far_face, &near_plans);
        let far_link = far_face.link.clone();
        let (far, far_machines) =
            neighbour.run(open(state.join("far"), FAR_INSTANCE, far_face, far_plans.clone())).await;
        let (near, machines) = open(state.join("near"), NEAR_INSTANCE, near_face, near_plans.clone()).await;

        let here = PathBuf::from("/proc/thread-self/ns/net");
        let outside = PathBuf::from("/run/netns/outside");
        let mut ports = Vec::new();
        for namespace in [&here, &neighbour.namespace, &outside].into_iter().chain(&machines[1..]).chain(&far_machines)
        {
            ports.extend(inside(namespace, || {
                [53, PROBES, PORT].map(|port| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap())
            }));
        }
        let wires = [
            (Place::Mesh, &neighbour.namespace, far_link.as_str()),
            (Place::Outside, &outside, "eth0"),
            (Place::Mate, &machines[1], "eth0"),
            (Place::Stranger, &machines[2], "eth0"),
            (Place::FarMate, &far_machines[0], "eth0"),
            (Place::FarStranger, &far_machines[1], "eth0"),
        ];
        let mut listened: Vec<(Place, OwnedFd)> =
            wires.map(|(place, namespace, link)| (place, capture::wire(namespace, link))).into();
        listened.extend(capture::host(&here).into_iter().map(|socket| (Place::Near, socket)));
        listened.extend(capture::host(&neighbour.namespace).into_iter().map(|socket| (Place::Far, socket)));

        let near_addresses = |at: usize| Addresses { v4: near.ipv4(near_plans[at].slot), v6: near_plans[at].ipv6 };
        let far_addresses = |at: usize| Addresses { v4: far.ipv4(far_plans[at].slot), v6: far_plans[at].ipv6 };
        let stage = Self {
            hostile: near_addresses(0),
            mate: near_addresses(1),
            stranger: near_addresses(2),
            far_mate: far_addresses(0),
            far_stranger: far_addresses(1),
            gateway: Ipv4Addr::from_bits(near.block().network().to_bits() + 1),
            hostile_wire: capture::wire(&machines[0], "eth0"),
            mesh_wire: capture::wire(&neighbour.namespace, &far_link),
            outside_wire: capture::wire(&outside, "eth0"),
            _near: near,
            _far: far,
            _neighbour: neighbour,
            _ports: ports,
        };
        (stage, listened)
    }

    pub fn send(&self, origin: Origin, frame: &[u8]) {
        let wire = match origin {
            Origin::Machine => &self.hostile_wire,
            Origin::Mesh => &self.mesh_wire,
            Origin::Outside => &self.outside_wire,
        };
        rustix::net::send(wire, frame, rustix::net::SendFlags::empty()).unwrap();
    }
}
