//! What a machine tries on its own wire: neighbour discovery, ARP, frames that are none of ours.

use std::net::{Ipv4Addr, Ipv6Addr};

use atoll_model::address::machine_address;

use super::super::packets::{Between, NEIGHBOUR_SOLICITATION, arp, ipv6};
use super::super::stage::{Ends, FAR_NODE, NEAR_NODE, NEAR_UPLINK, NETWORK, Origin, PORT, Place};
use super::{ARP, FLOOD_V4, FLOOD_V6, IPV4, IPV6, Table, with_kind};

const VLAN: u16 = 0x8100;
/// Packets of a flood.
const FLOOD: u16 = 2_000;

impl Table<'_> {
    pub fn neighbour_discovery(&mut self) {
        let Ends { from: mac, .. } = Origin::Machine.ends();
        let own = self.stage.hostile.v6;
        let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
        let all: Ipv6Addr = "ff02::1".parse().unwrap();
        let flood: Vec<Ipv6Addr> =
            (0..FLOOD).map(|number| Ipv6Addr::from_bits(FLOOD_V6.to_bits() | u128::from(number))).collect();
        // An option that nobody knows carries the mark.
        let discovery = |table: &Self, kind: u8, head: [u8; 4], addresses: &[Ipv6Addr], link: u8| {
            let mut rest = head.to_vec();
            addresses.iter().for_each(|address| rest.extend(address.octets()));
            rest.extend([link, 1]);
            rest.extend(mac);
            rest.extend([253, 3]);
            rest.extend(table.mark());
            rest.extend([0; 6]);
            move |from: Ipv6Addr, to: Ipv6Addr| ipv6(from, to, Between::V6(from, to).icmpv6(kind, &rest))
        };
        let question = discovery(self, NEIGHBOUR_SOLICITATION, [0; 4], &[link_local], 1);
        self.machine(
            "a machine floods questions as link-local neighbours".into(),
            flood.iter().map(|from| question(*from, link_local)),
        );
        let question = discovery(self, NEIGHBOUR_SOLICITATION, [0; 4], &[link_local], 1);
        let strangers = (0..FLOOD).map(|number| machine_address(NETWORK, 0xbad, u32::from(number) + 1));
        self.machine("a machine floods questions as machines".into(), strangers.map(|from| question(from, link_local)));
        let victims = [
            ("a machine of its network", self.stage.mate.v6),
            ("its host", NEAR_NODE),
            ("the router", link_local),
            ("another network's machine", self.stage.stranger.v6),
        ];
        for (whose, victim) in victims {
            for (from, to) in [
                (own, link_local),
                (own, all),
                (victim, link_local),
                (victim, all),
                (own, self.stage.mate.v6),
                (own, self.stage.stranger.v6),
            ] {
                // Router, solicited, override.
                let answer = discovery(self, 136, [0xe0, 0, 0, 0], &[victim], 2);
                let allowed: &[Place] = if to == self.stage.mate.v6 { &[Place::Mate] } else { &[] };
                self.machine(
                    format!("a machine claims the address of {whose} from {from} at {to}"),
                    [answer(from, to)],
                );
                self.permit(allowed, false);
            }
        }
        let flooded: Vec<_> =
            flood.iter().map(|address| discovery(self, 136, [0x60, 0, 0, 0], &[*address], 2)(*address, all)).collect();
        self.machine("a machine floods claims".into(), flooded);
        for from in [own, "fe80::bad".parse().unwrap(), link_local] {
            for (what, kind, head, addresses) in [
                ("asks for routers", 133, [0; 4], &[][..]),
                ("says that it is a router", 134, [64, 0, 0xff, 0xff], &[Ipv6Addr::UNSPECIFIED][..0]),
                ("redirects", 137, [0; 4], &[FAR_NODE, self.stage.mate.v6][..]),
            ] {
                let mut head = head.to_vec();
                // Times of a router's advertisement.
                if kind == 134 {
                    head.extend([0; 8]);
                }
                let mut rest = head;
                addresses.iter().for_each(|address| rest.extend(address.octets()));
                rest.extend([253, 3]);
                rest.extend(self.mark());
                rest.extend([0; 6]);
                let packets =
                    [all, link_local, NEAR_NODE].map(|to| ipv6(from, to, Between::V6(from, to).icmpv6(kind, &rest)));
                self.machine(format!("a machine {what} from {from}"), packets);
            }
        }
        let arps: Vec<_> = (0..FLOOD)
            .flat_map(|number| {
                let from = Ipv4Addr::from_bits(FLOOD_V4.to_bits() | u32::from(number));
                [1, 2].map(|operation| arp(operation, mac, from, if operation == 1 { NEAR_UPLINK } else { from }))
            })
            .map(|packet| with_kind(Origin::Machine.ends(), ARP, &packet))
            .collect();
        self.add("a machine floods ARP".into(), Origin::Machine, arps);
    }

    pub fn odd_frames(&mut self) {
        let own = self.stage.hostile.v6;
        let ends = Origin::Machine.ends();
        for (whom, target) in [("another network's machine", self.stage.stranger.v6), ("its host", NEAR_NODE)] {
            for (what, to) in [("a broadcast frame", [0xff; 6]), ("a multicast frame", [0x33, 0x33, 0, 0, 0, 1])] {
                let packet = self.udp(own, target, PORT);
                let frame = with_kind(Ends { to, ..ends }, IPV6, &packet);
                self.add(format!("a machine sends to {whom} in {what}"), Origin::Machine, vec![frame]);
            }
            for (what, tag) in [("a VLAN", [0, 7]), ("a priority tag", [0xe0, 0])] {
                let packet = self.udp(own, target, PORT);
                let tagged = [&tag[..], &IPV6.to_be_bytes(), &packet].concat();
                let frame = with_kind(ends, VLAN, &tagged);
                self.add(format!("a machine sends to {whom} in {what}"), Origin::Machine, vec![frame]);
            }
            let mut packet = self.udp(own, target, PORT);
            let frame = with_kind(ends, IPV4, &packet);
            self.add(format!("a machine sends IPv6 named IPv4 to {whom}"), Origin::Machine, vec![frame]);
            packet[0] = 0x45;
            self.machine(format!("a machine sends a wrong version to {whom}"), [packet]);
        }
    }
}
