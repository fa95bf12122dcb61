//! A world: hosts, where they are, and what the links between them do. Read from TOML by [`file`];
//! pure, nothing here touches the machine.

mod file;
mod routing;
mod systems;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::Port;
use crate::path::{Path, Paths};
use crate::place::{self, Place};

pub use file::{WorldError, parse_rate};
pub use routing::{Relation, Routing, Session, Speaker};
pub use systems::{Peering, SpeakerKind, System};

/// How much longer cables are than the great circle, unless the world says otherwise.
pub const DEFAULT_PATH_FACTOR: f64 = 1.6;

/// How often neighbouring BGP routers look whether the other lives, unless the world says otherwise; the
/// third miss counts.
pub const DEFAULT_BFD: Duration = Duration::from_millis(60);

/// What a host is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the platform: has the service address on its loopback, clients are steered to it.
    Node,
    /// Uses it: is steered to an edge.
    Client,
    /// Forwards packets of others; in a world of autonomous systems it speaks BGP for its own.
    Router,
}

/// What a host is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Namespaces of this machine's kernel.
    #[default]
    Namespace,
    /// A virtual machine with its own kernel.
    Vm,
}

/// Which pairs of hosts are connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Links {
    /// Every pair, by distance where no link says otherwise.
    #[default]
    Full,
    /// Only the pairs with a link.
    Listed,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HostSpec {
    pub name: String,
    pub city: String,
    pub place: Place,
    pub role: Role,
    pub kind: Kind,
    /// Of a router, the autonomous system whose router it is; of a node, the one in which it may
    /// announce addresses.
    pub system: Option<u32>,
    pub speaker: SpeakerKind,
}

/// A link, the same both ways.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkSpec {
    pub a: Port,
    pub b: Port,
    /// None is by distance.
    pub delay: Option<Duration>,
    pub jitter: Duration,
    /// 0 to 1.
    pub loss: f64,
    /// Bits a second.
    pub rate: Option<u64>,
    /// Between routers: what one is to the other.
    pub peering: Option<Peering>,
    /// Of the BGP session over this link (TCP MD5).
    pub password: Option<String>,
}

/// A whole world; a host's position in `hosts` is its port.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    pub path_factor: f64,
    pub links: Links,
    /// Of loss and jitter, so that a run can be repeated.
    pub seed: u64,
    /// How often BGP neighbours probe each other.
    pub bfd: Duration,
    /// Autonomous systems; without any, the lab steers clients.
    pub systems: Vec<System>,
    pub hosts: Vec<HostSpec>,
    pub listed: Vec<LinkSpec>,
}

impl World {
    /// Reads a world from TOML.
    ///
    /// # Errors
    /// Names the line and the key, and what would be right.
    pub fn parse(text: &str) -> Result<Self, WorldError> {
        file::parse(text)
    }

    pub fn port(&self, name: &str) -> Option<Port> {
        self.hosts.iter().position(|host| host.name == name).map(Port)
    }

    /// Every host with its port.
    pub fn ports(&self) -> impl Iterator<Item = (Port, &HostSpec)> {
        self.hosts.iter().enumerate().map(|(index, host)| (Port(index), host))
    }

    /// The paths of the undisturbed world.
    pub fn paths(&self) -> Paths {
        let mut paths = Paths::unconnected(self.hosts.len());
        if self.links == Links::Full {
            for (from, to) in paths.pairs() {
                paths.set(from, to, Some(Path::delayed(self.distance_delay(from, to))));
            }
        }
        for link in &self.listed {
            let delay = link.delay.unwrap_or_else(|| self.distance_delay(link.a, link.b));
            let path = Path { delay, jitter: link.jitter, loss: link.loss, rate: link.rate };
            paths.set(link.a, link.b, Some(path));
            paths.set(link.b, link.a, Some(path));
        }
        paths
    }

    /// Who speaks BGP with whom; none in a world without autonomous systems.
    pub fn routing(&self) -> Option<Routing> {
        (!self.systems.is_empty()).then(|| Routing::of(self))
    }

    fn distance_delay(&self, a: Port, b: Port) -> Duration {
        place::delay(self.hosts[a.0].place, self.hosts[b.0].place, self.path_factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../../worlds/three-regions.toml");

    #[test]
    fn the_shipped_world_has_three_regions_and_four_clients() {
        let world = World::parse(SHIPPED).unwrap();
        let names = |role| world.hosts.iter().filter(|h| h.role == role).map(|h| h.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names(Role::Node), ["ams", "nrt", "ord"]);
        assert_eq!(names(Role::Client), ["berlin", "osaka", "chicago", "mumbai"]);
        let paths = world.paths();
        let rtt = |a, b| {
            let round_trip = paths.round_trip(world.port(a).unwrap(), world.port(b).unwrap()).unwrap();
            round_trip.as_secs_f64() * 1e3
        };
        assert!((140.0..160.0).contains(&rtt("ams", "nrt")), "{}", rtt("ams", "nrt"));
        assert!(rtt("berlin", "ams") < 12.0 && rtt("osaka", "nrt") < 12.0 && rtt("chicago", "ord") < 1.0);
    }

    #[test]
    fn a_link_overrides_the_distance_both_ways() {
        let world = World::parse(
            "[[host]]\nname = \"a\"\ncity = \"ams\"\nrole = \"node\"\n\
             [[host]]\nname = \"b\"\ncity = \"nrt\"\nrole = \"node\"\n\
             [[link]]\na = \"a\"\nb = \"b\"\ndelay = \"12ms\"\nloss = 0.5\nrate = \"100mbit\"\n",
        )
        .unwrap();
        let path = world.paths().effective(Port(1), Port(0)).unwrap();
        assert_eq!(path.delay, Duration::from_millis(12));
        assert_eq!((path.loss, path.rate), (0.005, Some(100_000_000)));
    }

    #[test]
    fn listed_worlds_connect_only_what_is_listed() {
        let host = |name: &str| format!("[[host]]\nname = \"{name}\"\ncity = \"ams\"\nrole = \"node\"\n");
        let text = format!(
            "[defaults]\nlinks = \"listed\"\n{}{}{}[[link]]\na = \"a\"\nb = \"c\"\n",
            host("a"),
            host("b"),
            host("c")
        );
        let paths = World::parse(&text).unwrap().paths();
        assert!(paths.effective(Port(0), Port(2)).is_some() && paths.effective(Port(2), Port(0)).is_some());
        assert!(paths.effective(Port(0), Port(1)).is_none());
    }
}
