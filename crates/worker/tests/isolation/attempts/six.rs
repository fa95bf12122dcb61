//! What a machine tries with IPv6.

use std::net::Ipv6Addr;

use atoll_model::address::{FLYCAST_PORT, MACHINE_DNS, machine_address};

use super::super::packets::{
    Between, DESTINATION_OPTIONS, ECHO_REPLY_V6, HOP_BY_HOP, Payload, UDP, extended, fragment, ipv6, routed,
};
use super::super::stage::{FAR_NODE, NEAR_NODE, NETWORK, OUTSIDE_V6, PORT, PROBES, Place};
use super::{SERVICE, Table, Way, flycast};

impl Table<'_> {
    pub fn forged_sources(&mut self) {
        let mut targets = self.machines().to_vec();
        targets.push(("its host's probe port", NEAR_NODE, PROBES));
        targets.push(("another node's probe port", FAR_NODE, PROBES));
        targets.push(("the resolver", MACHINE_DNS, 53));
        targets.push(("the internet", OUTSIDE_V6, PORT));
        for (whose, source) in self.sources(&[self.stage.hostile.v6]) {
            for (whom, target, port) in &targets {
                let packet = self.udp(source, *target, *port);
                self.machine(format!("a machine sends as {whose} to {whom}"), [packet]);
            }
            for (whom, target, port) in [
                ("an app of its network", flycast(NETWORK.0), SERVICE),
                ("an app of another network", flycast(8), SERVICE),
                ("its host's edge", NEAR_NODE, FLYCAST_PORT),
            ] {
                let packet = self.syn(source, target, port);
                self.machine(format!("a machine calls {whom} as {whose}"), [packet]);
            }
        }
    }

    pub fn forbidden_destinations(&mut self) {
        let own = self.stage.hostile.v6;
        let mut targets = vec![
            ("another network's machine", self.stage.stranger.v6),
            ("another network's far machine", self.stage.far_stranger.v6),
            ("its host's address in the mesh", NEAR_NODE),
            ("another node", FAR_NODE),
            ("its network's flycast", flycast(NETWORK.0)),
            ("another network's flycast", flycast(8)),
            ("its network's resolver for peers", "fdaa:0:7::3".parse().unwrap()),
            ("its host's link-local address", "fe80::1".parse().unwrap()),
            ("its host's public address", "2001:db8::1".parse().unwrap()),
            ("its host's loopback", Ipv6Addr::LOCALHOST),
            ("an address that its network has nowhere", machine_address(NETWORK, 3, 999)),
            ("a private network that nobody has", "fdab::1".parse().unwrap()),
            ("the cloud's credentials", "fd00:ec2::254".parse().unwrap()),
            ("a place", "fec0::9".parse().unwrap()),
            ("IPv4 by a translator", "64:ff9b::a9fe:a9fe".parse().unwrap()),
        ];
        let groups = ["ff01::1", "ff02::1", "ff02::2", "ff02::16", "ff02::fb", "ff05::2", "ff08::1", "ff0e::1"];
        targets.extend(groups.map(|group| ("a group", group.parse().unwrap())));
        for (whom, target) in targets {
            let between = Between::V6(own, target);
            let name = |what: &str| format!("a machine sends {what} to {whom} {target}");
            // The resolver's, control's, the agent's, probes, the edge's for calls and anybody's.
            let ports = [53, 4280, 4281, 4283, PROBES, FLYCAST_PORT, PORT];
            let udp = ports.map(|port| ipv6(own, target, between.udp(port, &self.mark())));
            self.machine(name("UDP"), udp);
            let tcp = ports.map(|port| ipv6(own, target, between.syn(port, &self.mark())));
            self.machine(name("TCP"), tcp);
            if target == flycast(NETWORK.0) {
                // Calls of its network's apps, which its own host's edge takes.
                self.permit(&[Place::Near], false);
            }
            let echo = [&[0, 1, 0, 1][..], &self.mark()].concat();
            self.machine(name("an echo request"), [ipv6(own, target, between.icmpv6(128, &echo))]);
            self.machine(name("an unknown protocol"), [ipv6(own, target, (253, self.mark().to_vec()))]);
        }
        // Belongs to no connection, so that no address of its host's is found for it.
        let stray = [&[0, 1, 0, 1][..], &self.mark()].concat();
        let stray = Between::V6(own, OUTSIDE_V6).icmpv6(ECHO_REPLY_V6, &stray);
        self.machine("a machine answers the internet unasked".into(), [ipv6(own, OUTSIDE_V6, stray)]);
        let other_ports = [54, 4283, PROBES].map(|port| self.udp(own, MACHINE_DNS, port));
        self.machine("a machine sends to other ports of the resolver's address".into(), other_ports);
    }

    pub fn extension_headers(&mut self) {
        let own = self.stage.hostile.v6;
        for (whom, target, port) in [
            ("another network's machine", self.stage.stranger.v6, PORT),
            ("another network's far machine", self.stage.far_stranger.v6, PORT),
            ("its host's resolver port", NEAR_NODE, 53),
            ("its host's probe port", NEAR_NODE, PROBES),
        ] {
            // A home address that is not the sender's.
            let mut home = vec![1, 2, 0, 0, 201, 16];
            home.extend(self.stage.stranger.v6.octets());
            let padding = [1, 4, 0, 0, 0, 0];
            let router_alert = [5, 2, 0, 0, 1, 0];
            let options = |payload| extended(DESTINATION_OPTIONS, &padding, payload);
            let ways: [(&str, &dyn Fn(Payload) -> Payload); 5] = [
                ("hop-by-hop options", &|udp| extended(HOP_BY_HOP, &padding, udp)),
                ("a router alert", &|udp| extended(HOP_BY_HOP, &router_alert, udp)),
                ("destination options", &options),
                ("a home address", &|udp| extended(DESTINATION_OPTIONS, &home, udp)),
                ("eight extension headers", &|udp| (0..8).fold(udp, |payload, _| options(payload))),
            ];
            for (what, way) in ways {
                let udp = Between::V6(own, target).udp(port, &self.mark());
                self.machine(format!("a machine sends {what} to {whom}"), [ipv6(own, target, way(udp))]);
            }
        }
        // By way of somebody who may be reached, on to somebody who may not.
        for (by, way, allowed) in [
            ("a machine of its network", self.stage.mate.v6, &[Place::Mate][..]),
            ("a far machine of its network", self.stage.far_mate.v6, &[Place::Mesh, Place::FarMate]),
            ("the resolver", MACHINE_DNS, &[]),
            ("its host", NEAR_NODE, &[]),
        ] {
            for kind in [0, 2, 3, 4] {
                for target in [self.stage.stranger.v6, NEAR_NODE] {
                    let port = if way == MACHINE_DNS { 53 } else { PORT };
                    let udp = Between::V6(own, target).udp(port, &self.mark());
                    let packet = ipv6(own, way, routed(kind, target, udp));
                    self.machine(format!("a machine routes to {target} by way of {by}, type {kind}"), [packet]);
                    self.permit(allowed, false);
                }
            }
        }
    }

    pub fn fragments(&mut self) {
        let own = self.stage.hostile.v6;
        for (whom, target, port) in [
            ("another network's machine", self.stage.stranger.v6, PORT),
            ("another network's far machine", self.stage.far_stranger.v6, PORT),
            ("its host's resolver port", NEAR_NODE, 53),
            ("its host's probe port", NEAR_NODE, PROBES),
        ] {
            let udp = |port: u16, table: &Table<'_>| Between::V6(own, target).udp(port, &table.mark().repeat(4));
            let ways: [Way<Vec<Payload>>; 6] = [
                ("fragments", &|table| table.fragments_of(udp(port, table), 24)),
                ("fragments, the last one first", &|table| {
                    table.fragments_of(udp(port, table), 24).into_iter().rev().collect()
                }),
                ("a first fragment without the port", &|table| {
                    let options = extended(DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0], udp(port, table));
                    table.fragments_of(options, 8)
                }),
                ("an atomic fragment", &|table| vec![table.fragment(UDP, 0, false, &udp(port, table).1)]),
                ("a last fragment alone", &|table| vec![table.fragment(UDP, 48, false, &udp(port, table).1)]),
                // The later piece writes over the port of the earlier one.
                ("overlapping fragments", &|table| {
                    let decoy = table.fragment(UDP, 0, true, &udp(9, table).1[..24]);
                    [vec![decoy], table.fragments_of(udp(port, table), 24)].concat()
                }),
            ];
            for (what, way) in ways {
                let packets: Vec<_> = way(self).into_iter().map(|piece| ipv6(own, target, piece)).collect();
                self.machine(format!("a machine sends {what} to {whom}"), packets);
            }
        }
    }

    /// A piece of what only this attempt's pieces belong to.
    fn fragment(&self, next: u8, offset: usize, more: bool, body: &[u8]) -> Payload {
        fragment(self.rows.len() as u32, next, offset, more, body)
    }

    /// Pieces, of which the first has a length in bytes that is a multiple of eight.
    fn fragments_of(&self, (next, body): Payload, first: usize) -> Vec<Payload> {
        vec![self.fragment(next, 0, true, &body[..first]), self.fragment(next, first, false, &body[first..])]
    }
}
