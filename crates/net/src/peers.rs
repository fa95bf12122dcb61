//! Which peers this server's link has and which addresses lead to each: a pure function of the catalogue,
//! and the way from one such state to the next.
//!
//! A peer is allowed its own address, and those of its machines and of the devices that enter at it, in
//! networks that this server carries, which are those of its own machines and devices: nothing else could be
//! meant for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use atoll_catalogue::Snapshot;
use atoll_mesh::probe::Targets;
use atoll_mesh::{AddressChange, Desired, PeerConfig, PrivateKey, PublicKey};
use atoll_model::address::{NetworkId, network_of, node_address};
use atoll_model::row::{MachineRow, NodeRow, NodeState};
use atoll_model::{MachineState, NodeName, RegionCode};

/// What a link is to have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    pub peers: BTreeMap<PublicKey, Peer>,
    /// Whose each address is: always one of the peers.
    pub addresses: HashMap<Ipv6Addr, PublicKey>,
}

/// Another server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub node: NodeName,
    pub region: RegionCode,
    /// Where it said it listens; it may speak from elsewhere.
    pub endpoint: SocketAddr,
    /// Where its net process talks to ours.
    pub rpc: Option<SocketAddr>,
}

/// Makes it of the catalogue, for the server `here` with the key `own`.
pub fn wanted(catalogue: &Snapshot, here: &NodeName, own: PublicKey) -> Wanted {
    let mut nodes: Vec<&NodeRow> = catalogue.nodes().map(|row| &**row).collect();
    // Of two that claim one key every server must take the same.
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let mut wanted = Wanted::default();
    let mut keys: HashMap<&NodeName, PublicKey> = HashMap::new();
    for node in nodes.into_iter().filter(|node| node.name != *here && node.state != NodeState::Revoked) {
        let Some(end) = &node.mesh else { continue };
        let key = match end.public_key.parse::<PublicKey>() {
            Ok(key) if key != own && !wanted.peers.contains_key(&key) => key,
            Ok(_) => {
                tracing::warn!(node = %node.name, "a server has the mesh key of another one and is left out");
                continue;
            }
            Err(error) => {
                tracing::warn!(node = %node.name, %error, "a server has no mesh key that can be read");
                continue;
            }
        };
        keys.insert(&node.name, key);
        let peer = Peer { node: node.name.clone(), region: node.region, endpoint: end.endpoint, rpc: end.rpc };
        wanted.peers.insert(key, peer);
        wanted.addresses.insert(node_address(&key.0), key);
    }
    for network in carried(catalogue, here) {
        let apps = catalogue.apps_in(network).iter();
        for machine in apps.flat_map(|app| catalogue.machines_of(app)).filter(|machine| counts(catalogue, machine)) {
            if let Some(key) = keys.get(&machine.node).filter(|_| machine.network == network) {
                wanted.addresses.insert(machine.private_ipv6, *key);
            }
        }
        // After machines, whose rows are other servers' word: control's counts more.
        for device in catalogue.devices_in(network) {
            if let Some(key) = keys.get(&device.gateway) {
                wanted.addresses.insert(device.address, *key);
            }
        }
    }
    wanted
}

/// Networks of this server's machines, in whatever state, as a stopped one may be woken at any moment; and of
/// the devices that enter here.
fn carried(catalogue: &Snapshot, here: &NodeName) -> HashSet<NetworkId> {
    let own = catalogue.machines().filter(|machine| machine.node == *here && is_there(machine));
    let devices = catalogue.devices().filter(|device| device.gateway == *here);
    own.map(|machine| machine.network).chain(devices.map(|device| device.network)).collect()
}

fn is_there(machine: &MachineRow) -> bool {
    machine.state != MachineState::Destroyed
}

/// A row cannot speak for another network, nor for an address that a later row has.
fn counts(catalogue: &Snapshot, machine: &MachineRow) -> bool {
    is_there(machine)
        && network_of(machine.private_ipv6) == Some(machine.network)
        && catalogue.machine_by_address(machine.private_ipv6).is_some_and(|holder| holder.id == machine.id)
}

/// The way from one state to another. Peers that are gone go first; an address comes to its new peer before
/// it leaves the old one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Steps {
    pub gone: Vec<PublicKey>,
    pub new: Vec<PeerConfig>,
    pub moved: Vec<(PublicKey, SocketAddr)>,
    pub addresses: Vec<AddressChange>,
}

impl Wanted {
    /// What is to be done where `have` is the case.
    pub fn after(&self, have: &Self) -> Steps {
        let gone: Vec<_> = have.peers.keys().filter(|key| !self.peers.contains_key(key)).copied().collect();
        let mut steps = Steps { gone, ..Steps::default() };
        for (key, peer) in &self.peers {
            match have.peers.get(key) {
                None => steps.new.push(config(*key, peer, Vec::new())),
                Some(known) if known.endpoint != peer.endpoint => steps.moved.push((*key, peer.endpoint)),
                Some(_) => {}
            }
        }
        let added = self.addresses.iter().filter(|(address, key)| have.addresses.get(address) != Some(key));
        steps.addresses.extend(added.map(|(address, key)| AddressChange::Add { peer: *key, prefix: host(*address) }));
        let removed = have.addresses.iter().filter(|(address, _)| !self.addresses.contains_key(address));
        let removed = removed.filter(|(_, key)| self.peers.contains_key(key));
        let remove =
            |(address, key): (&Ipv6Addr, &PublicKey)| AddressChange::Remove { peer: *key, prefix: host(*address) };
        steps.addresses.extend(removed.map(remove));
        steps
    }

    /// All of it, for a link of which nothing is known.
    pub fn desired(&self, private_key: &PrivateKey) -> Desired {
        let mut allowed: HashMap<PublicKey, Vec<_>> = HashMap::new();
        for (address, key) in &self.addresses {
            allowed.entry(*key).or_default().push(host(*address));
        }
        let peers = self.peers.iter();
        let peers = peers.map(|(key, peer)| config(*key, peer, allowed.remove(key).unwrap_or_default())).collect();
        Desired { private_key: private_key.clone(), peers }
    }

    /// Addresses of the machines and devices at peers of a region.
    pub fn addresses_in(&self, region: RegionCode) -> BTreeSet<Ipv6Addr> {
        let is_there = |key: &PublicKey| self.peers.get(key).is_some_and(|peer| peer.region == region);
        let of_peers = self.addresses.iter().filter(|(_, key)| is_there(key));
        of_peers.filter(|(address, key)| **address != node_address(&key.0)).map(|(address, _)| *address).collect()
    }

    /// Whom to probe, and where.
    pub fn targets(&self) -> Targets {
        let peers = self.peers.iter();
        peers.map(|(key, peer)| (peer.node.clone(), IpAddr::V6(node_address(&key.0)))).collect()
    }
}

fn config(public_key: PublicKey, peer: &Peer, allowed: Vec<ipnet::IpNet>) -> PeerConfig {
    // Probes twice a second keep every way open, also through translators of addresses.
    PeerConfig { public_key, preshared_key: None, endpoint: Some(peer.endpoint), allowed, keepalive: None }
}

fn host(address: Ipv6Addr) -> ipnet::IpNet {
    IpAddr::V6(address).into()
}

#[cfg(test)]
mod tests;
