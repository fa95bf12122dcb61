//! What others than machines try: nodes, and neighbours of the host on its local network.

use atoll_model::address::{FLYCAST_PORT, MACHINE_DNS, machine_address};

use super::super::stage::{FAR_NODE, NEAR_NODE, NEAR_UPLINK, NETWORK, OUTSIDE, OUTSIDE_V6, Origin, PORT, PROBES};
use super::{SERVICE, Table, flycast, framed};

impl Table<'_> {
    /// A node that does not keep to the rules, or whose machines' sources are not enforced.
    pub fn other_nodes(&mut self) {
        let mate = self.stage.far_mate.v6;
        let stranger = self.stage.far_stranger.v6;
        let targets = [
            ("a machine", self.stage.mate.v6, PORT),
            ("another network's machine", self.stage.stranger.v6, PORT),
            ("a node's resolver port", NEAR_NODE, 53),
            ("a node's agent", NEAR_NODE, 4283),
            ("a node's probe port", NEAR_NODE, PROBES),
            ("the resolver", MACHINE_DNS, 53),
            ("a link-local address", "fe80::1".parse().unwrap(), 4283),
            ("a group", "ff02::1".parse().unwrap(), PORT),
            ("flycast", flycast(NETWORK.0), PORT),
        ];
        for (whose, source) in self.sources(&[]) {
            for (whom, target, port) in targets {
                let permitted = (source == mate && target == self.stage.mate.v6)
                    || (source == stranger && target == self.stage.stranger.v6)
                    || (source == FAR_NODE && port == PROBES)
                    // Nobody's as yet, and of the machine's own network: who may send it is the mesh's to know.
                    || (source == machine_address(NETWORK, 0, 999) && target == self.stage.mate.v6);
                if !permitted {
                    let frame = framed(Origin::Mesh.ends(), &self.udp(source, target, port));
                    self.add(format!("the mesh brings {whose} {source} to {whom}"), Origin::Mesh, vec![frame]);
                }
            }
        }
        for (whom, target) in [("a machine", self.stage.mate.v4), ("a host", NEAR_UPLINK), ("the internet", OUTSIDE)] {
            let packet = self.udp_v4(self.stage.far_mate.v4, target, PORT);
            self.add(
                format!("the mesh brings IPv4 to {whom}"),
                Origin::Mesh,
                vec![framed(Origin::Mesh.ends(), &packet)],
            );
        }
        for (what, to) in [("the internet", OUTSIDE_V6), ("the mesh again", FAR_NODE)] {
            let frame = framed(Origin::Mesh.ends(), &self.udp(mate, to, PORT));
            self.add(format!("the mesh is led on to {what}"), Origin::Mesh, vec![frame]);
        }
        for (whose, source) in [("another node", FAR_NODE), ("a far machine", mate)] {
            for (whom, target, port) in [
                ("a node's agent", NEAR_NODE, 4283),
                ("a node's edge for calls", NEAR_NODE, FLYCAST_PORT),
                ("an app", flycast(NETWORK.0), SERVICE),
            ] {
                let frame = framed(Origin::Mesh.ends(), &self.syn(source, target, port));
                self.add(format!("the mesh connects {whose} to {whom}"), Origin::Mesh, vec![frame]);
            }
        }
    }

    /// Somebody who uses the near host as a router.
    pub fn local_network(&mut self) {
        let ends = Origin::Outside.ends();
        for (whose, source) in [
            ("itself", OUTSIDE_V6),
            ("a far machine", self.stage.far_mate.v6),
            ("a machine", self.stage.mate.v6),
            ("a node", FAR_NODE),
        ] {
            let mut targets = self.machines().to_vec();
            targets.extend([
                ("a node's resolver port", NEAR_NODE, 53),
                ("a node's probe port", NEAR_NODE, PROBES),
                ("another node", FAR_NODE, PROBES),
            ]);
            for (whom, target, port) in targets {
                let frame = framed(ends, &self.udp(source, target, port));
                self.add(format!("the local network sends as {whose} to {whom}"), Origin::Outside, vec![frame]);
            }
            let frame = framed(ends, &self.syn(source, NEAR_NODE, FLYCAST_PORT));
            self.add(format!("the local network connects as {whose} to a node's edge"), Origin::Outside, vec![frame]);
        }
        for (whose, source) in
            [("itself", OUTSIDE), ("a machine", self.stage.stranger.v4), ("the gateway", self.stage.gateway)]
        {
            for (whom, target) in [("a machine", self.stage.mate.v4), ("another machine", self.stage.stranger.v4)] {
                let frame = framed(ends, &self.udp_v4(source, target, PORT));
                self.add(format!("the local network sends as {whose} to {whom} by IPv4"), Origin::Outside, vec![frame]);
            }
        }
    }
}
