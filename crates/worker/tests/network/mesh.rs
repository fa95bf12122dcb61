//! Machines of two hosts with a mesh between them.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;

use atoll_model::MachineId;
use atoll_model::address::{MACHINE_DNS, NetworkId, machine_address};
use atoll_worker::network::{HostNetworks, MeshFace};
use atoll_worker::seams::NetworkPlan;

use crate::host::{ip, on_a_host};
use crate::machines::{INSTANCE, PATIENCE, ask, config, machine, open_with, plan, serve, serve_here};
use crate::neighbour::{Neighbour, inside, lay_mesh};

const FAR_INSTANCE: u32 = 0x5e6f_7a8b;
const MARK: u32 = 0x4154;
/// Where marked packets are led.
const TABLE: &str = "4154";
pub const NEAR_NODE: Ipv6Addr = Ipv6Addr::new(0xfdaa, 0, 0, 1, 0, 0, 0, 1);
pub const FAR_NODE: Ipv6Addr = Ipv6Addr::new(0xfdaa, 0, 0, 1, 0, 0, 0, 2);

fn face(instance: u32, address: Ipv6Addr) -> MeshFace {
    MeshFace { link: format!("atm{instance:08x}"), address, mark: MARK, devices: format!("atu{instance:08x}") }
}

/// A machine of the other host.
pub fn far_plan(slot: u32, network: u32) -> NetworkPlan {
    let ipv6 = machine_address(NetworkId(network), 2, slot + 1);
    NetworkPlan { machine: MachineId::from_random(u64::from(slot) + 100), slot, network: NetworkId(network), ipv6 }
}

/// The wire, nodes' own addresses, and the way to machines of the other host.
fn lay(near: &MeshFace, far: &MeshFace, neighbour: &Neighbour) {
    lay_mesh(&near.link, &far.link, neighbour);
    settle("", near, &[far_plan(0, 7).ipv6, far_plan(1, 9).ipv6]);
    settle("-n far ", far, &[near_a().ipv6, near_b().ipv6]);
}

fn settle(host: &str, face: &MeshFace, others: &[Ipv6Addr]) {
    let MeshFace { link, address, .. } = face;
    ip(&format!("{host}-6 addr add {address}/64 dev {link} nodad"));
    for other in others {
        ip(&format!("{host}-6 route add {other}/128 dev {link} table {TABLE}"));
    }
    if !ip(&format!("{host}-6 rule")).contains(TABLE) {
        ip(&format!("{host}-6 rule add fwmark {MARK} lookup {TABLE}"));
    }
}

fn nft(arguments: &str) {
    assert!(Command::new("nft").args(arguments.split(' ')).status().unwrap().success(), "nft {arguments}");
}

/// Two hosts: on the near one machines of the networks 7 and 8, on the far one of 7 and 9.
pub struct Two {
    near_face: MeshFace,
    pub far_face: MeshFace,
    // Their namespaces and addresses stay for as long as they do.
    pub near: HostNetworks,
    _far: HostNetworks,
    pub neighbour: Neighbour,
    pub a: PathBuf,
    pub b: PathBuf,
    pub far_a: PathBuf,
    far_c: PathBuf,
}

pub fn near_a() -> NetworkPlan {
    plan(0, 7)
}

pub fn near_b() -> NetworkPlan {
    plan(1, 8)
}

impl Two {
    pub async fn new(state: PathBuf) -> Self {
        let (near_face, far_face) = (face(INSTANCE, NEAR_NODE), face(FAR_INSTANCE, FAR_NODE));
        let neighbour = Neighbour::new("far");
        let (far_plan_a, far_plan_c) = (far_plan(0, 7), far_plan(1, 9));
        lay(&near_face, &far_face, &neighbour);
        let mut near_config = config(&state, INSTANCE);
        near_config.mesh = Some(near_face.clone());
        let near = open_with(near_config).await;
        let far_state = state.join("far");
        std::fs::create_dir(&far_state).unwrap();
        let mut far_config = config(&far_state, FAR_INSTANCE);
        far_config.mesh = Some(far_face.clone());
        let (far, far_a, far_c) = neighbour
            .run(async move {
                let far = open_with(far_config).await;
                let a = machine(&far, &far_plan_a).await;
                let c = machine(&far, &far_plan_c).await;
                (far, a, c)
            })
            .await;
        let a = machine(&near, &near_a()).await;
        let b = machine(&near, &near_b()).await;
        Self { near_face, far_face, near, _far: far, neighbour, a, b, far_a, far_c }
    }
}

#[test]
fn machines_of_a_network_meet_over_the_mesh() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        let far = far_plan(0, 7);
        let server = serve(&two.far_a, far.ipv6);
        assert_eq!(inside(&two.a, move || ask(server)).unwrap(), near_a().ipv6.to_string());
        let server = serve(&two.a, near_a().ipv6);
        assert_eq!(inside(&two.far_a, move || ask(server)).unwrap(), far.ipv6.to_string());
    });
}

#[test]
fn machines_of_other_networks_do_not_whichever_side_checks() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        let server = serve(&two.far_a, far_plan(0, 7).ipv6);
        let others = serve(&two.far_c, far_plan(1, 9).ipv6);
        for (namespace, server) in [(&two.b, server), (&two.b, others), (&two.a, others)] {
            assert!(inside(namespace, move || ask(server)).is_err(), "another network's machine was reached");
        }
        // A host that does not check what its machines send: the other one's check remains.
        nft("flush chain inet atoll-1a2b3c4d transit");
        assert!(inside(&two.a, move || ask(server)).is_ok());
        assert!(inside(&two.b, move || ask(server)).is_err(), "a foreign source was let in");
    });
}

#[test]
fn nodes_are_no_machines() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        let server = serve(&two.a, near_a().ipv6);
        // The far node has a way to the machine; its address is of no machine's network.
        let link = &two.far_face.link;
        ip(&format!("-n far -6 route add {}/128 dev {link} src {FAR_NODE}", near_a().ipv6));
        assert!(two.neighbour.run(async move { ask(server) }).await.is_err(), "a node reached a machine");
        assert!(inside(&two.far_a, move || ask(server)).is_ok());

        let service = serve_here(NEAR_NODE.into());
        assert!(ask(service).is_ok());
        assert!(inside(&two.a, move || ask(service)).is_err(), "a machine reached its node's address in the mesh");
        assert!(two.neighbour.run(async move { ask(service) }).await.is_err(), "the mesh reached a service");
        assert!(inside(&two.far_a, move || ask(service)).is_err(), "a machine reached another node's address");
    });
}

#[test]
fn of_a_node_the_mesh_reaches_the_probes_alone() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        let sockets = [4284, 4285].map(|port| UdpSocket::bind((NEAR_NODE, port)).unwrap());
        two.neighbour
            .run(async {
                let socket = UdpSocket::bind((FAR_NODE, 0)).unwrap();
                for port in [4285, 4284] {
                    socket.send_to(b"probe", (NEAR_NODE, port)).unwrap();
                }
            })
            .await;
        assert!(heard(&sockets[0]), "probes are not heard");
        assert!(!heard(&sockets[1]), "another port is reached");
    });
}

#[test]
fn machines_ask_their_node_for_names() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        let udp = UdpSocket::bind((NEAR_NODE, 53)).unwrap();
        std::thread::spawn(move || {
            let mut question = [0; 64];
            while let Ok((length, from)) = udp.recv_from(&mut question) {
                // The machine may have gone away.
                udp.send_to(&question[..length], from).ok();
            }
        });
        let tcp = TcpListener::bind((NEAR_NODE, 53)).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = tcp.accept() {
                write!(stream, "{}", peer.ip()).ok();
            }
        });
        let resolver = SocketAddr::from((MACHINE_DNS, 53));
        let answered = inside(&two.b, move || echoed(resolver));
        assert_eq!(answered, Some(resolver), "the answer comes from where the question went");
        assert_eq!(inside(&two.b, move || ask(resolver)).unwrap(), near_b().ipv6.to_string());

        let node = SocketAddr::from((NEAR_NODE, 53));
        assert_eq!(inside(&two.b, move || echoed(node)), None, "the node's address is asked directly");
        assert!(inside(&two.b, move || ask(node)).is_err());
        assert_eq!(inside(&two.far_a, move || echoed(node)), None, "another node's machine is answered");
    });
}

#[test]
fn connections_know_what_the_mesh_carries() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        let server = serve(&two.far_a, far_plan(0, 7).ipv6);
        let most = inside(&two.a, move || {
            let mut stream = std::net::TcpStream::connect_timeout(&server, PATIENCE).unwrap();
            let most = socket2::SockRef::from(&stream).tcp_mss().unwrap();
            stream.read_to_string(&mut String::new()).unwrap();
            most
        });
        // The mesh's 1400 bytes without the headers of IPv6 and TCP.
        assert!(most <= 1340, "segments of {most} bytes do not fit");
    });
}

#[test]
fn the_mesh_may_vanish_and_return() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        let server = serve(&two.far_a, far_plan(0, 7).ipv6);
        ip(&format!("link del {}", two.near_face.link));
        assert!(inside(&two.a, move || ask(server)).is_err());
        lay(&two.near_face, &two.far_face, &two.neighbour);
        assert!(inside(&two.a, move || ask(server)).is_ok());
    });
}

/// Whether a datagram arrives in time.
fn heard(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.recv(&mut [0; 64]).is_ok()
}

/// Who sent a datagram back, if anybody did.
fn echoed(by: SocketAddr) -> Option<SocketAddr> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"name", by).unwrap();
    socket.recv_from(&mut [0; 64]).ok().map(|(_, from)| from)
}
