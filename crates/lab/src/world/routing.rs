//! Who speaks BGP with whom, as follows from a world: pure, and independent of the daemon.

use std::collections::BTreeMap;

use super::{Peering, Role, SpeakerKind, World};
use crate::address::Port;

/// What a neighbour is to oneself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Relation {
    /// Pays us: its routes are told to everybody, and it is told all of them.
    Customer,
    Peer,
    /// We pay it.
    Provider,
}

/// A BGP session over a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    pub with: Port,
    /// The neighbour's autonomous system.
    pub system: u32,
    pub relation: Relation,
    pub password: Option<String>,
}

/// A host in which a BGP daemon runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Speaker {
    pub role: Role,
    pub system: u32,
    pub sessions: Vec<Session>,
    /// Linked hosts that are no routers: a router announces their addresses.
    pub attached: Vec<Port>,
}

/// A world's BGP speakers that the lab runs, and every host's links.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Routing {
    pub speakers: BTreeMap<Port, Speaker>,
    linked: BTreeMap<Port, Vec<Port>>,
    routers: Vec<Port>,
}

impl Routing {
    pub(super) fn of(world: &World) -> Self {
        let mut linked: BTreeMap<Port, Vec<Port>> = BTreeMap::new();
        for link in &world.listed {
            linked.entry(link.a).or_default().push(link.b);
            linked.entry(link.b).or_default().push(link.a);
        }
        let speakers = world.ports().filter_map(|(port, host)| {
            let spoken_for = host.role == Role::Router || host.speaker == SpeakerKind::Lab;
            let system = host.system.filter(|_| spoken_for)?;
            let is_router = |port: &Port| world.hosts[port.0].role == Role::Router;
            let neighbours = linked.get(&port).map(Vec::as_slice).unwrap_or_default();
            let attached = if host.role == Role::Router {
                neighbours.iter().copied().filter(|port| !is_router(port)).collect()
            } else {
                Vec::new()
            };
            let sessions = world.sessions(port);
            Some((port, Speaker { role: host.role, system, sessions, attached }))
        });
        let routers = world.ports().filter(|(_, host)| host.role == Role::Router).map(|(port, _)| port).collect();
        Self { speakers: speakers.collect(), linked, routers }
    }

    /// The hosts at the other ends of a host's links, in the order of the file.
    pub fn neighbours(&self, port: Port) -> &[Port] {
        self.linked.get(&port).map(Vec::as_slice).unwrap_or_default()
    }

    /// Where a host that is no router sends what is not for a neighbour: its first router.
    pub fn gateway(&self, port: Port) -> Option<Port> {
        let is_router = |port: &Port| self.routers.contains(port);
        let own = is_router(&port);
        self.neighbours(port).iter().copied().find(|neighbour| !own && is_router(neighbour))
    }
}

impl World {
    /// The BGP sessions of a host with those of its neighbours that have a system too.
    pub fn sessions(&self, port: Port) -> Vec<Session> {
        let sessions = self.listed.iter().filter_map(|link| {
            let (with, seller) = match port {
                port if port == link.a => (link.b, true),
                port if port == link.b => (link.a, false),
                _ => return None,
            };
            let system = self.hosts[with.0].system?;
            self.hosts[port.0].system?;
            let relation = match link.peering {
                Some(Peering::Peer) => Relation::Peer,
                Some(Peering::Transit) if seller => Relation::Customer,
                Some(Peering::Transit) => Relation::Provider,
                // A router and a node: whichever way the link is written.
                None if self.hosts[port.0].role == Role::Router => Relation::Customer,
                None => Relation::Provider,
            };
            Some(Session { with, system, relation, password: link.password.clone() })
        });
        sessions.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORLD: &str = include_str!("../../../../worlds/anycast.toml");

    #[test]
    fn relations_mirror_each_other() {
        let world = World::parse(WORLD).unwrap();
        let mut sessions = 0;
        for (port, _) in world.ports() {
            for session in world.sessions(port) {
                let back = world.sessions(session.with);
                let back = back.iter().find(|back| back.with == port).unwrap();
                let mirrored = match session.relation {
                    Relation::Customer => Relation::Provider,
                    Relation::Peer => Relation::Peer,
                    Relation::Provider => Relation::Customer,
                };
                assert_eq!(back.relation, mirrored);
                sessions += 1;
            }
        }
        assert!(sessions > 40, "{sessions} ends of sessions");
    }

    #[test]
    fn nodes_and_clients_have_a_gateway_and_routers_have_none() {
        let world = World::parse(WORLD).unwrap();
        let routing = world.routing().unwrap();
        for (port, host) in world.ports() {
            let gateway = routing.gateway(port);
            assert_eq!(gateway.is_none(), host.role == Role::Router, "{}", host.name);
            assert!(gateway.is_none_or(|gateway| world.hosts[gateway.0].role == Role::Router));
        }
    }

    #[test]
    fn routers_announce_the_hosts_attached_to_them() {
        let world = World::parse(WORLD).unwrap();
        let routing = world.routing().unwrap();
        let attached: usize = routing.speakers.values().map(|speaker| speaker.attached.len()).sum();
        let others = world.hosts.iter().filter(|host| host.role != Role::Router).count();
        assert!(attached >= others, "{attached} of {others}");
    }
}
