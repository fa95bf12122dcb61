//! What a machine tries with IPv4.

use std::net::Ipv4Addr;

use super::super::packets::{Between, ECHO_REPLY, Payload, UDP, icmp, ipv4, ipv4_with};
use super::super::stage::{NEAR_UPLINK, OUTSIDE, PORT};
use super::{Table, Way};

impl Table<'_> {
    pub fn ipv4(&mut self) {
        let own = self.stage.hostile.v4;
        let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let targets = [
            ("a machine of its network", self.stage.mate.v4),
            ("another network's machine", self.stage.stranger.v4),
            ("its gateway", self.stage.gateway),
            ("its host's public address", NEAR_UPLINK),
            ("its host's loopback", Ipv4Addr::LOCALHOST),
            ("everybody", Ipv4Addr::BROADCAST),
            ("everybody on the local network", address("192.0.2.255")),
            ("a group", address("224.0.0.1")),
            ("a group", address("239.1.2.3")),
            ("the cloud's credentials", address("169.254.169.254")),
            ("a far machine of its network", self.stage.far_mate.v4),
        ];
        // What leads nowhere on the near host leaves it by its way to the internet.
        for (whom, target) in targets {
            let between = Between::V4(own, target);
            let (mate, stranger) = (self.stage.mate.v6, self.stage.stranger.v6);
            let ways: [Way<Payload>; 5] = [
                ("UDP", &|table| between.udp(4283, &table.mark())),
                ("a question", &|table| between.udp(53, &table.mark())),
                ("TCP", &|table| between.syn(4283, &table.mark())),
                ("IPv6 in IPv4", &|table| (41, table.udp(mate, stranger, PORT))),
                ("GRE", &|table| (47, table.mark().to_vec())),
            ];
            for (what, way) in ways {
                let packet = ipv4(own, target, way(self));
                self.machine(format!("a machine sends {what} to {whom} {target}"), [packet]);
            }
            let udp = between.udp(4283, &self.mark().repeat(4));
            let pieces = [
                ipv4_with(own, target, &[], (true, 0), (UDP, udp.1[..24].to_vec())),
                ipv4_with(own, target, &[], (false, 3), (UDP, udp.1[24..].to_vec())),
            ];
            self.machine(format!("a machine sends IPv4 fragments to {whom} {target}"), pieces);
        }
        let stray = icmp(ECHO_REPLY, &[&[0, 1, 0, 1][..], &self.mark()].concat());
        self.machine("a machine answers the internet unasked by IPv4".into(), [ipv4(own, OUTSIDE, stray)]);
        for (whose, source) in [
            ("a machine of its network", self.stage.mate.v4),
            ("another network's machine", self.stage.stranger.v4),
            ("its gateway", self.stage.gateway),
            ("its host", NEAR_UPLINK),
            ("the local network", OUTSIDE),
            ("loopback", Ipv4Addr::LOCALHOST),
            ("nobody", Ipv4Addr::UNSPECIFIED),
            ("everybody", Ipv4Addr::BROADCAST),
            ("a group", address("224.0.0.1")),
            ("the internet", address("203.0.113.7")),
            ("a link-local address", address("169.254.1.1")),
        ] {
            for (whom, target) in
                [("the internet", OUTSIDE), ("its gateway", self.stage.gateway), ("a machine", self.stage.mate.v4)]
            {
                let packet = self.udp_v4(source, target, PORT);
                self.machine(format!("a machine sends as {whose} {source} to {whom} by IPv4"), [packet]);
            }
        }
        for (what, option) in [("loosely", 131), ("strictly", 137)] {
            for (whom, last) in [("a machine", self.stage.mate.v4), ("its gateway", self.stage.gateway)] {
                let mut options = vec![option, 7, 4];
                options.extend(last.octets());
                options.push(0);
                let udp = Between::V4(own, last).udp(PORT, &self.mark());
                let packet = ipv4_with(own, NEAR_UPLINK, &options, (false, 0), udp);
                self.machine(format!("a machine routes {what} to {whom} by IPv4"), [packet]);
            }
        }
    }
}
