//! Many peers, many addresses.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use atoll_mesh::{Kind, PeerConfig};

use crate::place::{LINK, Node, Underlay, eventually, inside, nodes, whole};
use crate::traffic::{Echo, answers, socket};

const NODES: u16 = 12;
/// Addresses of machines on each node: all nodes together have 100,000.
const MACHINES: u16 = 8_334;

fn machine(node: u16, number: u16) -> IpAddr {
    Ipv6Addr::new(0xfdaa, 0, 3, 0, node, 0, number, 2).into()
}

fn as_peer(node: &Node) -> PeerConfig {
    let mut allowed = vec![whole(inside(node.number))];
    allowed.extend((0..MACHINES).map(|number| whole(machine(node.number, number))));
    PeerConfig { allowed, ..node.as_peer() }
}

#[test]
fn twelve_nodes_with_a_hundred_thousand_addresses_reach_each_other() {
    let (_switch, nodes) = nodes(&[Kind::Userspace; NODES as usize], Underlay::V6);
    let peers: Vec<_> = nodes.iter().map(as_peer).collect();
    for node in &nodes {
        for peer in peers.iter().filter(|peer| peer.public_key != node.key.public()) {
            node.backend().set_peer(peer).unwrap();
        }
        // And its own, which no peer has: the mesh does not need them, but has room.
        assert_eq!(node.userspace.as_ref().unwrap().addresses(), usize::from(NODES - 1) * (usize::from(MACHINES) + 1));
        let last = machine(node.number, MACHINES - 1);
        node.namespace.sh(&format!("ip addr add {last}/128 dev {LINK} nodad"));
    }
    let echoes: Vec<_> =
        nodes.iter().map(|node| Echo::start(&node.namespace, machine(node.number, MACHINES - 1))).collect();
    for node in &nodes {
        let socket = socket(&node.namespace, machine(node.number, MACHINES - 1), Duration::from_secs(2));
        for (other, echo) in nodes.iter().zip(&echoes) {
            if other.number != node.number {
                eventually(&format!("{} hears {}", node.number, other.number), || answers(&socket, echo.at));
            }
        }
    }
    for node in &nodes {
        let statuses = node.backend().peers().unwrap();
        assert_eq!(statuses.len(), usize::from(NODES) - 1);
        assert!(statuses.iter().all(|status| status.last_handshake.is_some() && status.rx_bytes > 0));
        let dropped = node.backend().dropped().unwrap();
        assert_eq!((dropped.spoofed, dropped.rejected, dropped.malformed), (0, 0, 0), "{dropped:?}");
    }
}
