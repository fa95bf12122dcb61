//! Nodes on one switch, each in a namespace of its own with a link of the mesh.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_mesh::kernel::{self, Kernel, Probe};
use atoll_mesh::userspace::Userspace;
use atoll_mesh::{Backend, Kind, PeerConfig, PrivateKey, PublicKey, Settings, link_mtu};
use ipnet::IpNet;

use crate::namespace::Namespace;

/// Longest time for anything that must come to pass.
pub const LIMIT: Duration = Duration::from_secs(20);

pub const LINK: &str = "mesh0";

/// How nodes reach each other under the mesh.
#[derive(Clone, Copy, Debug)]
pub enum Underlay {
    V4,
    V6,
}

pub struct Node {
    pub namespace: Namespace,
    pub number: u16,
    pub key: PrivateKey,
    pub port: u16,
    underlay: Underlay,
    backend: Option<Arc<dyn Backend>>,
    /// Of this process only.
    pub userspace: Option<Arc<Userspace>>,
}

/// A private address on the node.
pub fn inside(number: u16) -> IpAddr {
    Ipv6Addr::new(0xfdaa, 0, 0, 0, number, 0, 0, 2).into()
}

/// An IPv4 address in the mesh.
pub fn inside_v4(number: u16) -> IpAddr {
    Ipv4Addr::new(172, 20, 0, u8::try_from(number).unwrap()).into()
}

pub fn whole(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// Both ends of a link: where the kernel has WireGuard the near one is `near` and the far one the other,
/// else both are ours.
pub fn kinds(near: Kind) -> [Kind; 2] {
    match (kernel::probe(), near) {
        (Probe::Absent(_), _) => [Kind::Userspace; 2],
        (Probe::Present, Kind::Userspace) => [Kind::Userspace, Kind::Kernel],
        (Probe::Present, Kind::Kernel) => [Kind::Kernel, Kind::Userspace],
    }
}

/// Nodes on one switch, numbered from 1, that do not know each other yet.
pub fn nodes(kinds: &[Kind], underlay: Underlay) -> (Namespace, Vec<Node>) {
    let switch = Namespace::new();
    switch.sh("ip link add br0 type bridge; ip link set br0 up");
    let nodes = (1..).zip(kinds).map(|(number, kind)| Node::new(&switch, number, *kind, underlay)).collect();
    (switch, nodes)
}

/// Two nodes that know each other.
pub fn pair(kinds: [Kind; 2], underlay: Underlay) -> (Namespace, Node, Node) {
    let (switch, mut nodes) = nodes(&kinds, underlay);
    let (far, near) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    near.backend().set_peer(&far.as_peer()).unwrap();
    far.backend().set_peer(&near.as_peer()).unwrap();
    (switch, near, far)
}

impl Node {
    fn new(switch: &Namespace, number: u16, kind: Kind, underlay: Underlay) -> Self {
        let namespace = Namespace::new();
        let thread = switch.thread;
        namespace.sh(&format!(
            "ip link add eth0 type veth peer name port{number} netns {thread}; ip link set eth0 up
             ip addr add 10.9.0.{number}/16 dev eth0; ip addr add fd09::{number:x}/64 dev eth0 nodad"
        ));
        switch.sh(&format!("ip link set port{number} master br0 up"));
        let key = PrivateKey::generate();
        let settings =
            Settings { link: LINK.to_owned(), listen_port: 0, mtu: link_mtu(1500), private_key: key.clone() };
        let (backend, userspace): (Arc<dyn Backend>, _) = namespace.run(move || match kind {
            Kind::Kernel => (Arc::new(Kernel::open(&settings).unwrap()) as _, None),
            Kind::Userspace => {
                let userspace = Arc::new(Userspace::open(&settings).unwrap());
                (userspace.clone() as _, Some(userspace))
            }
        });
        let port = backend.listen_port();
        let node = Self { namespace, number, key, port, underlay, backend: Some(backend), userspace };
        node.namespace.sh(&format!(
            "ip addr add {}/128 dev {LINK} nodad; ip addr add {}/32 dev {LINK}
             ip route add fdaa::/16 dev {LINK}; ip route add 172.20.0.0/16 dev {LINK}",
            inside(number),
            inside_v4(number),
        ));
        node
    }

    pub fn backend(&self) -> &Arc<dyn Backend> {
        self.backend.as_ref().unwrap()
    }

    pub fn endpoint(&self) -> SocketAddr {
        let ip: IpAddr = match self.underlay {
            Underlay::V4 => Ipv4Addr::new(10, 9, 0, u8::try_from(self.number).unwrap()).into(),
            Underlay::V6 => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, self.number).into(),
        };
        (ip, self.port).into()
    }

    /// As others are told of it.
    pub fn as_peer(&self) -> PeerConfig {
        PeerConfig {
            public_key: self.key.public(),
            preshared_key: None,
            endpoint: Some(self.endpoint()),
            allowed: vec![whole(inside(self.number)), whole(inside_v4(self.number))],
            keepalive: NonZeroU16::new(25),
        }
    }

    pub fn endpoint_of(&self, peer: PublicKey) -> Option<SocketAddr> {
        let statuses = self.backend().peers().unwrap();
        statuses.into_iter().find(|status| status.public_key == peer)?.endpoint
    }

    /// Ends the link.
    pub fn close(&mut self) {
        self.userspace = None;
        self.backend = None;
    }
}

/// Waits for something to come to pass.
pub fn eventually(what: &str, mut passed: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !passed() {
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
