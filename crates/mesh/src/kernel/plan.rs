//! Changes in the kernel's words. Nothing here speaks to it.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardPeer, WireguardPeerAttribute,
    WireguardPeerFlags,
};

use crate::config::{AddressChange, PeerConfig};
use crate::key::PublicKey;

/// Addresses in one message. Lengths are 16 bits, and an address takes 40 bytes.
pub const ADDRESSES: usize = 500;

/// Whose each prefix is.
pub type Owners = HashMap<IpNet, PublicKey>;

/// A peer that is not there yet, in messages to be sent one after another.
pub fn add(config: &PeerConfig) -> Vec<WireguardPeer> {
    let mut pieces = config.allowed.chunks(ADDRESSES);
    let mut first = terms(config);
    first.push(addresses(pieces.next().unwrap_or_default()));
    let rest = pieces
        .map(|piece| WireguardPeer(vec![WireguardPeerAttribute::PublicKey(config.public_key.0), addresses(piece)]));
    std::iter::once(WireguardPeer(first)).chain(rest).collect()
}

/// Everything about a peer but its addresses.
pub fn terms(config: &PeerConfig) -> Vec<WireguardPeerAttribute> {
    use WireguardPeerAttribute as A;
    let mut attributes = vec![
        A::PublicKey(config.public_key.0),
        // None is said by zeros.
        A::PresharedKey(config.preshared_key.as_ref().map_or([0; 32], |key| *key.expose())),
        A::PersistentKeepalive(config.keepalive.map_or(0, std::num::NonZeroU16::get)),
    ];
    attributes.extend(config.endpoint.map(A::Endpoint));
    attributes
}

/// What makes a peer's addresses these. The kernel can replace them all, but forgets them for a moment
/// in which packets are lost.
pub fn replace(owners: &Owners, peer: PublicKey, allowed: &[IpNet]) -> Vec<AddressChange> {
    let wanted: HashSet<_> = allowed.iter().map(IpNet::trunc).collect();
    let gone = owners.iter().filter(|(prefix, owner)| **owner == peer && !wanted.contains(*prefix));
    let gone = gone.map(|(prefix, _)| AddressChange::Remove { peer, prefix: *prefix });
    let new = wanted.iter().filter(|prefix| owners.get(*prefix) != Some(&peer));
    gone.chain(new.map(|prefix| AddressChange::Add { peer, prefix: *prefix })).collect()
}

/// Of a peer that is there: one that has gone meanwhile is not made again by a part of its description.
pub fn update(key: PublicKey, attribute: WireguardPeerAttribute) -> WireguardPeer {
    let only = WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly);
    WireguardPeer(vec![WireguardPeerAttribute::PublicKey(key.0), only, attribute])
}

pub fn remove(key: PublicKey) -> WireguardPeer {
    let gone = WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe);
    WireguardPeer(vec![WireguardPeerAttribute::PublicKey(key.0), gone])
}

/// Changes of addresses, and the owners after them. Kernels before 6.16 cannot take an address from a
/// peer: it is given to `nobody`, a peer that nobody can be and that is nowhere.
pub fn change(owners: &mut Owners, changes: &[AddressChange], nobody: PublicKey) -> Vec<WireguardPeer> {
    let mut moves: Vec<(PublicKey, Vec<IpNet>)> = Vec::new();
    for change in changes {
        let (to, prefix) = match *change {
            AddressChange::Add { peer, prefix } => {
                owners.insert(prefix.trunc(), peer);
                (peer, prefix)
            }
            AddressChange::Remove { peer, prefix } => {
                if owners.get(&prefix.trunc()) != Some(&peer) {
                    continue;
                }
                owners.remove(&prefix.trunc());
                (nobody, prefix)
            }
        };
        match moves.last_mut() {
            Some((last, prefixes)) if *last == to && prefixes.len() < ADDRESSES => prefixes.push(prefix),
            _ => moves.push((to, vec![prefix])),
        }
    }
    let peer = |(to, prefixes): (PublicKey, Vec<IpNet>)| match addresses(&prefixes) {
        // Made where it is not there yet.
        addresses if to == nobody => WireguardPeer(vec![WireguardPeerAttribute::PublicKey(to.0), addresses]),
        addresses => update(to, addresses),
    };
    moves.into_iter().map(peer).collect()
}

/// Peers in as few messages as hold them.
pub fn messages(peers: Vec<WireguardPeer>) -> Vec<Vec<WireguardPeer>> {
    let mut messages: Vec<(usize, Vec<WireguardPeer>)> = Vec::new();
    for peer in peers {
        // A peer itself takes about as much as four addresses.
        let size = 4 + peer
            .0
            .iter()
            .map(|attribute| match attribute {
                WireguardPeerAttribute::AllowedIps(addresses) => addresses.len(),
                _ => 0,
            })
            .sum::<usize>();
        match messages.last_mut() {
            Some((used, message)) if *used + size <= 2 * ADDRESSES => {
                *used += size;
                message.push(peer);
            }
            _ => messages.push((size, vec![peer])),
        }
    }
    messages.into_iter().map(|(_, message)| message).collect()
}

fn addresses(prefixes: &[IpNet]) -> WireguardPeerAttribute {
    let address = |prefix: &IpNet| {
        let family = match prefix {
            IpNet::V4(_) => WireguardAddressFamily::Ipv4,
            IpNet::V6(_) => WireguardAddressFamily::Ipv6,
        };
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(family),
            WireguardAllowedIpAttr::IpAddr(prefix.network()),
            WireguardAllowedIpAttr::Cidr(prefix.prefix_len()),
        ])
    };
    WireguardPeerAttribute::AllowedIps(prefixes.iter().map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PublicKey = PublicKey([1; 32]);
    const B: PublicKey = PublicKey([2; 32]);
    const NOBODY: PublicKey = PublicKey([9; 32]);

    fn net(number: u16) -> IpNet {
        IpNet::new(std::net::Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, number).into(), 128).unwrap()
    }

    fn keys(peers: &[WireguardPeer]) -> Vec<u8> {
        let key = |attribute: &WireguardPeerAttribute| match attribute {
            WireguardPeerAttribute::PublicKey(key) => Some(key[0]),
            _ => None,
        };
        peers.iter().filter_map(|peer| peer.0.iter().find_map(key)).collect()
    }

    #[test]
    fn an_address_is_added_before_it_is_released_and_stays_with_its_new_owner() {
        let mut owners = Owners::from([(net(1), A)]);
        let moved = [
            AddressChange::Add { peer: B, prefix: net(1) },
            AddressChange::Remove { peer: A, prefix: net(1) },
            AddressChange::Remove { peer: B, prefix: net(2) },
        ];
        assert_eq!(keys(&change(&mut owners, &moved, NOBODY)), [2], "what is not its own is not taken from it");
        assert_eq!(owners, Owners::from([(net(1), B)]));
    }

    #[test]
    fn an_address_is_taken_away_by_giving_it_to_nobody() {
        let mut owners = Owners::from([(net(1), A), (net(2), A)]);
        let gone = [1, 2].map(|number| AddressChange::Remove { peer: A, prefix: net(number) });
        assert_eq!(keys(&change(&mut owners, &gone, NOBODY)), [9]);
        assert!(owners.is_empty());
    }

    #[test]
    fn addresses_that_stay_are_not_touched() {
        let mut owners = Owners::from([(net(1), A), (net(2), A), (net(3), B)]);
        let mut changes = replace(&owners, A, &[net(2), net(3)]);
        changes.sort_by_key(|change| matches!(change, AddressChange::Add { .. }));
        let (gone, new) =
            (AddressChange::Remove { peer: A, prefix: net(1) }, AddressChange::Add { peer: A, prefix: net(3) });
        assert_eq!(changes, [gone, new]);
        change(&mut owners, &changes, NOBODY);
        assert_eq!(owners, Owners::from([(net(2), A), (net(3), A)]));
        assert_eq!(replace(&owners, A, &[net(2), net(3)]), []);
    }

    #[test]
    fn many_addresses_go_in_several_messages() {
        let config = PeerConfig {
            public_key: A,
            preshared_key: None,
            endpoint: None,
            allowed: (0..2_100).map(net).collect(),
            keepalive: None,
        };
        let pieces = add(&config);
        assert_eq!(pieces.len(), 5);
        assert_eq!(messages(pieces).len(), 4, "the last is small enough to go with the one before");
    }
}
