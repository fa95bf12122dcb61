//! What there is at a name of a zone. Pure.

use std::net::IpAddr;

use atoll_model::address::network_of;
use atoll_model::reserved::API;
use atoll_model::row::{AppRow, CHALLENGE_LABEL};

use super::edges::Family;
use super::zone::{Kind, MINIMUM, View, Zone};
use crate::place::Position;
use crate::record;
use crate::wire::{Name, Type};

/// Seconds for which an app's addresses may be kept.
const ADDRESS_TTL: u32 = 60;
/// For which the addresses of edges may be kept, that are given by place and health.
const EDGE_TTL: u32 = 30;
/// For which challenges may be kept: they are asked for once.
const CHALLENGE_TTL: u32 = 5;
/// For which the zone's own records may be kept.
const ZONE_TTL: u32 = 3600;

/// For whom names are looked up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asker {
    /// Somebody at a place, if it is known. The turn says which of equal addresses comes first.
    At { place: Option<Position>, turn: u16 },
    /// Whoever will ask a copy of the zone.
    Everybody,
}

/// The data of one record; addresses need no memory of their own.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Data {
    V4([u8; 4]),
    V6([u8; 16]),
    Bytes(Vec<u8>),
}

impl Data {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
            Self::Bytes(bytes) => bytes,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Record {
    pub kind: Type,
    pub ttl: u32,
    pub data: Data,
}

/// Everything at a name; those of one type stand together. Without records, only names below it exist.
#[derive(Clone, Default, Debug)]
pub(super) struct Node {
    pub records: Vec<Record>,
    /// The addresses depend on who asks.
    pub by_place: bool,
}

impl Node {
    fn push(&mut self, kind: Type, ttl: u32, data: Data) {
        self.records.push(Record { kind, ttl, data });
    }

    fn address(&mut self, ttl: u32, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.push(Type::A, ttl, Data::V4(address.octets())),
            IpAddr::V6(address) => self.push(Type::AAAA, ttl, Data::V6(address.octets())),
        }
    }

    pub fn of(&self, kind: Type) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.kind == kind)
    }
}

/// What is at a name within the zone; none when neither it nor any name below it exists.
pub(super) fn lookup(view: &View, zone: &Zone, name: &Name, asker: Asker) -> Option<Node> {
    let within = name.below(&zone.origin)?;
    let mut node = Node::default();
    if within.is_empty() {
        apex(zone, &mut node);
    }
    if let Some(server) = zone.servers.iter().find(|server| server.name == *name) {
        for family in [Family::V4, Family::V6] {
            for address in server.addresses.iter().filter(|address| family.has(address)) {
                node.address(ZONE_TTL, *address);
            }
        }
        return Some(node);
    }
    if zone.kind == Kind::AppDomain && within == API {
        entrances(view, std::iter::empty(), asker, &mut node);
        return Some(node);
    }
    if zone.kind == Kind::AppDomain
        && let Some(app) = view.catalogue.app_named(&within)
    {
        addresses(view, app, asker, &mut node);
        return Some(node);
    }
    let host = name.below(&Name::ROOT)?;
    let proven = host.strip_prefix(CHALLENGE_LABEL).and_then(|host| host.strip_prefix('.'));
    if let Some(challenge) = proven.and_then(|host| view.catalogue.challenge(host)) {
        for value in &challenge.values {
            node.push(Type::TXT, CHALLENGE_TTL, Data::Bytes(record::text(value)));
        }
    }
    if let Some(app) = view.catalogue.app_by_hostname(&host) {
        addresses(view, app, asker, &mut node);
    }
    let exists = !node.records.is_empty()
        || view.catalogue.has_hostname_below(&host)
        || zone.servers.iter().any(|server| server.name.is_within(name));
    exists.then_some(node)
}

fn apex(zone: &Zone, node: &mut Node) {
    node.push(Type::SOA, MINIMUM, Data::Bytes(zone.start_of_authority()));
    for server in &zone.servers {
        node.push(Type::NS, ZONE_TTL, Data::Bytes(server.name.wire().to_vec()));
    }
    if let Some(signer) = &zone.signer {
        node.push(Type::DNSKEY, ZONE_TTL, Data::Bytes(signer.key_data()));
    }
}

/// Where users enter an app.
fn addresses(view: &View, app: &AppRow, asker: Asker, node: &mut Node) {
    let is_public = |address: &&IpAddr| match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => network_of(*address).is_none(),
    };
    let own = app.addresses.iter().filter(is_public).chain(&app.shared_addresses);
    entrances(view, own, asker, node);
}

/// Where users enter: at their own addresses, else at those that all share, else at edges.
fn entrances<'v>(view: &View, own: impl Iterator<Item = &'v IpAddr> + Clone, asker: Asker, node: &mut Node) {
    for family in [Family::V4, Family::V6] {
        let before = node.records.len();
        for address in own.clone().filter(|address| family.has(address)) {
            node.address(ADDRESS_TTL, *address);
        }
        if node.records.len() > before {
            continue;
        }
        for address in view.shared.iter().filter(|address| family.has(address)) {
            node.address(ADDRESS_TTL, *address);
        }
        if node.records.len() > before {
            continue;
        }
        match asker {
            Asker::At { place, turn } => {
                node.by_place = true;
                view.edges.near(place, family, turn, |address| node.address(EDGE_TTL, address));
            }
            Asker::Everybody => view.edges.for_all(family, |address| node.address(EDGE_TTL, address)),
        }
    }
}
