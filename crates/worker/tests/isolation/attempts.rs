//! What is tried, as a table: a name that says what leaked should it arrive, the frames, and where
//! they may be seen.

mod beyond;
mod four;
mod link;
mod six;

use std::net::{Ipv4Addr, Ipv6Addr};

use atoll_model::address::{MACHINE_DNS, NetworkId, flycast_address, machine_address};

use super::capture::mark;
use super::packets::{Between, NEIGHBOUR_SOLICITATION, ipv4, ipv6};
use super::stage::{
    Ends, FAR_NODE, NEAR_NODE, NEAR_UPLINK, NETWORK, OUTSIDE, OUTSIDE_V6, Origin, PORT, PROBES, Place, Stage,
};

/// Where apps are entered.
const SERVICE: u16 = 80;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Where a flood pretends to come from; none of these may become a neighbour of the host.
pub const FLOOD_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xbad, 0);
pub const FLOOD_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 0, 0);

pub struct Attempt {
    pub name: String,
    pub origin: Origin,
    pub frames: Vec<Vec<u8>>,
    /// Where its packets may be seen.
    pub allowed: Vec<Place>,
    /// Allowed as a whole: must be seen there, or nothing is proven.
    pub control: bool,
}

/// A destination with a name.
type Target<A> = (&'static str, A, u16);

/// How the next attempt's packets are made, with a name.
type Way<'a, Made> = (&'static str, &'a dyn Fn(&Table<'_>) -> Made);

/// The table while it is filled.
struct Table<'a> {
    stage: &'a Stage,
    rows: Vec<Attempt>,
}

pub fn table(stage: &Stage) -> Vec<Attempt> {
    let mut table = Table { stage, rows: Vec::new() };
    // Its floods first, so that they do not drown the others should they arrive.
    table.neighbour_discovery();
    table.forged_sources();
    table.forbidden_destinations();
    table.extension_headers();
    table.fragments();
    table.odd_frames();
    table.ipv4();
    table.other_nodes();
    table.local_network();
    table.controls();
    table.rows
}

impl Table<'_> {
    /// What the next attempt's packets carry.
    fn mark(&self) -> [u8; 16] {
        mark(self.rows.len())
    }

    fn add(&mut self, name: String, origin: Origin, frames: Vec<Vec<u8>>) {
        self.rows.push(Attempt { name, origin, frames, allowed: Vec::new(), control: false });
    }

    fn machine(&mut self, name: String, packets: impl IntoIterator<Item = Vec<u8>>) {
        let frames = packets.into_iter().map(|packet| framed(Origin::Machine.ends(), &packet)).collect();
        self.add(name, Origin::Machine, frames);
    }

    fn control(&mut self, name: &str, origin: Origin, packet: Vec<u8>, allowed: &[Place]) {
        self.add(name.into(), origin, vec![framed(origin.ends(), &packet)]);
        self.permit(allowed, true);
    }

    /// Of the attempt added last.
    fn permit(&mut self, allowed: &[Place], control: bool) {
        if let Some(row) = self.rows.last_mut() {
            (row.allowed, row.control) = (allowed.to_vec(), control);
        }
    }

    /// Machines' addresses, whoever's.
    fn machines(&self) -> [Target<Ipv6Addr>; 4] {
        [
            ("a machine of its network", self.stage.mate.v6, PORT),
            ("another network's machine", self.stage.stranger.v6, PORT),
            ("a far machine of its network", self.stage.far_mate.v6, PORT),
            ("another network's far machine", self.stage.far_stranger.v6, PORT),
        ]
    }

    fn udp(&self, from: Ipv6Addr, to: Ipv6Addr, port: u16) -> Vec<u8> {
        ipv6(from, to, Between::V6(from, to).udp(port, &self.mark()))
    }

    /// Opens a connection.
    fn syn(&self, from: Ipv6Addr, to: Ipv6Addr, port: u16) -> Vec<u8> {
        ipv6(from, to, Between::V6(from, to).syn(port, &self.mark()))
    }

    fn udp_v4(&self, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
        ipv4(from, to, Between::V4(from, to).udp(port, &self.mark()))
    }

    /// Sources that are not the sender's, but for the addresses in `own`.
    fn sources(&self, own: &[Ipv6Addr]) -> Vec<(&'static str, Ipv6Addr)> {
        let mut sources = vec![
            ("the hostile machine", self.stage.hostile.v6),
            ("a machine of its network", self.stage.mate.v6),
            ("another network's machine", self.stage.stranger.v6),
            ("a far machine of its network", self.stage.far_mate.v6),
            ("another network's far machine", self.stage.far_stranger.v6),
            ("an address of its network that nobody has", machine_address(NETWORK, 0, 999)),
            ("its host", NEAR_NODE),
            ("another node", FAR_NODE),
            ("the resolver", MACHINE_DNS),
            ("flycast", flycast(NETWORK.0)),
            ("loopback", Ipv6Addr::LOCALHOST),
            ("nobody", Ipv6Addr::UNSPECIFIED),
            ("a group", "ff02::1".parse().unwrap()),
            ("a link-local address", "fe80::bad".parse().unwrap()),
            ("its host's link-local address", "fe80::1".parse().unwrap()),
            ("an address of the internet", OUTSIDE_V6),
            ("IPv4 in IPv6", self.stage.hostile.v4.to_ipv6_mapped()),
        ];
        sources.retain(|(_, source)| !own.contains(source));
        sources
    }

    /// What is allowed and must be seen. They come last: when these have arrived, so would all others.
    fn controls(&mut self) {
        let (own, mate, stranger) = (self.stage.hostile, self.stage.mate, self.stage.stranger);
        let (far_mate, far_stranger) = (self.stage.far_mate, self.stage.far_stranger);
        let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
        let packet = self.udp(own.v6, mate.v6, PORT);
        self.control("a machine to one of its network", Origin::Machine, packet, &[Place::Mate]);
        let packet = self.udp(own.v6, far_mate.v6, PORT);
        self.control("a machine to a far one of its network", Origin::Machine, packet, &[Place::Mesh, Place::FarMate]);
        let packet = self.udp(own.v6, MACHINE_DNS, 53);
        self.control("a machine to the resolver", Origin::Machine, packet, &[Place::Near]);
        let called = flycast(NETWORK.0);
        let packet = self.syn(own.v6, called, SERVICE);
        self.control("a machine calls an app of its network", Origin::Machine, packet, &[Place::Near]);
        let mut question = vec![0; 4];
        question.extend(link_local.octets());
        question.extend([253, 3]);
        question.extend(self.mark());
        question.extend([0; 6]);
        let question = Between::V6(own.v6, link_local).icmpv6(NEIGHBOUR_SOLICITATION, &question);
        self.control(
            "a machine asks for its router",
            Origin::Machine,
            ipv6(own.v6, link_local, question),
            &[Place::Near],
        );
        let packet = self.udp_v4(own.v4, OUTSIDE, PORT);
        self.control("a machine to the internet", Origin::Machine, packet, &[Place::Outside]);
        let packet = self.udp(own.v6, OUTSIDE_V6, PORT);
        self.control("a machine to the internet by IPv6", Origin::Machine, packet, &[Place::Outside]);
        let packet = self.udp(far_mate.v6, mate.v6, PORT);
        self.control("a far machine to one of its network", Origin::Mesh, packet, &[Place::Mate]);
        let packet = self.udp(far_stranger.v6, stranger.v6, PORT);
        self.control("another network's far machine to one of its own", Origin::Mesh, packet, &[Place::Stranger]);
        let packet = self.udp(FAR_NODE, NEAR_NODE, PROBES);
        self.control("a node probes another", Origin::Mesh, packet, &[Place::Near]);
        let packet = self.udp_v4(OUTSIDE, NEAR_UPLINK, PORT);
        self.control("the local network to the host", Origin::Outside, packet, &[Place::Near]);
    }
}

fn flycast(network: u32) -> Ipv6Addr {
    flycast_address(NetworkId(network), 5)
}

/// As its first bits say.
fn framed(ends: Ends, packet: &[u8]) -> Vec<u8> {
    with_kind(ends, if packet[0] >> 4 == 4 { IPV4 } else { IPV6 }, packet)
}

fn with_kind(ends: Ends, kind: u16, packet: &[u8]) -> Vec<u8> {
    [&ends.to[..], &ends.from, &kind.to_be_bytes(), packet].concat()
}
