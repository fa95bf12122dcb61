//! Private addresses of machines (6PN): `fdaa:` + network 32 bits + host field 32 bits + machine
//! 32 bits + 16 free bits. The machine itself uses `::2` of its /112. The host field is opaque: an
//! address is allocated for a machine's life and routed by the catalogue, not by its bits.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// A private network: one per organization, plus named custom ones. The id is kept for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkId(pub u32);

const PREFIX: u128 = 0xfdaa << 112;
/// The host number, inside its /112, that the machine itself uses.
const MACHINE_HOST: u128 = 2;

/// The 6PN address of a machine.
pub fn machine_address(network: NetworkId, host_field: u32, machine_field: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(
        PREFIX
            | u128::from(network.0) << 80
            | u128::from(host_field) << 48
            | u128::from(machine_field) << 16
            | MACHINE_HOST,
    )
}

/// The network an address belongs to, or `None` when it is not a 6PN address.
pub fn network_of(address: Ipv6Addr) -> Option<NetworkId> {
    let bits = address.to_bits();
    (bits >> 112 == 0xfdaa).then_some(NetworkId((bits >> 80) as u32))
}

/// The address of a server in the mesh. It follows from the server's public key there, so that nobody can
/// claim another's: network 0, which no organization has, then the key's first 64 bits.
pub fn node_address(public_key: &[u8; 32]) -> Ipv6Addr {
    let [a, b, c, d, e, f, g, h, ..] = *public_key;
    Ipv6Addr::from_bits(NODES | u128::from(u64::from_be_bytes([a, b, c, d, e, f, g, h])))
}

/// Leading bits that all servers' addresses share.
pub const NODES_PREFIX: u8 = 64;
const NODES: u128 = PREFIX | 1 << 64;

/// A Flycast address: of an app, in a network from which it is entered through an edge. Machines'
/// addresses count up from the low end and would be there after four thousand million of them.
pub fn flycast_address(network: NetworkId, number: u16) -> Ipv6Addr {
    Ipv6Addr::from_bits(PREFIX | u128::from(network.0) << 80 | 1 << 48 | u128::from(number))
}

/// Which addresses are Flycast's, of whatever network, as packet filters ask: those whose bits under this mask are
/// [`FLYCAST_BITS`].
pub const FLYCAST_MASK: Ipv6Addr = Ipv6Addr::from_bits(!(0xffff_ffff << 80 | 0xffff));
pub const FLYCAST_BITS: Ipv6Addr = Ipv6Addr::from_bits(PREFIX | 1 << 48);

/// Whether an address is Flycast's, of whatever network.
pub fn is_flycast(address: Ipv6Addr) -> bool {
    address & FLYCAST_MASK == FLYCAST_BITS
}

/// The port, at a node's own address in the mesh, to which its packet filter leads TCP connections that are for
/// Flycast addresses. Nobody reaches it otherwise.
pub const FLYCAST_PORT: u16 = 4286;

/// The DNS server that every machine asks, on its own node.
pub const MACHINE_DNS: Ipv6Addr = Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, 3);

/// All addresses of a network are in this prefix, of [`NETWORK_PREFIX`] bits.
pub fn network_address(network: NetworkId) -> Ipv6Addr {
    Ipv6Addr::from_bits(PREFIX | u128::from(network.0) << 80)
}

/// Leading bits that all addresses of a network share.
pub const NETWORK_PREFIX: u8 = 48;

/// The DNS server that users' devices in a network ask, at their gateway.
pub fn network_dns(network: NetworkId) -> Ipv6Addr {
    Ipv6Addr::from_bits(PREFIX | u128::from(network.0) << 80 | 3)
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_documented_layout() {
        // The example of Fly's private networking page: network 0:3ec2, host a7b:5adc, machine 6068:5b85.
        let address = machine_address(NetworkId(0x0000_3ec2), 0x0a7b_5adc, 0x6068_5b85);
        assert_eq!(address, "fdaa:0:3ec2:a7b:5adc:6068:5b85:2".parse::<Ipv6Addr>().unwrap());
        assert_eq!(network_of(address), Some(NetworkId(0x3ec2)));
    }

    #[test]
    fn a_server_has_the_address_of_its_key_in_a_network_of_no_organization() {
        let mut key = [7; 32];
        key[..3].copy_from_slice(&[0x12, 0x34, 0xff]);
        let address = node_address(&key);
        assert_eq!(address, "fdaa:0:0:1:1234:ff07:707:707".parse::<Ipv6Addr>().unwrap());
        assert_eq!(network_of(address), Some(NetworkId(0)));
    }

    #[test]
    fn flycast_addresses_are_of_their_network() {
        let address = flycast_address(NetworkId(0x18), 5);
        assert_eq!(address, "fdaa:0:18:0:1::5".parse::<Ipv6Addr>().unwrap());
        assert_eq!(network_of(address), Some(NetworkId(0x18)));
        for network in [NetworkId(1), NetworkId(u32::MAX)] {
            assert!([0, 1, u16::MAX].into_iter().all(|number| is_flycast(flycast_address(network, number))));
            let others = [machine_address(network, 0, 5), machine_address(network, 1, 1), network_dns(network)];
            assert!(!others.into_iter().any(is_flycast));
        }
        assert!(!is_flycast(node_address(&[0; 32])) && !is_flycast(MACHINE_DNS));
        // As packet filters are told.
        assert_eq!(
            (FLYCAST_MASK.to_string(), FLYCAST_BITS.to_string()),
            ("ffff::ffff:ffff:ffff:ffff:0".to_owned(), "fdaa::1:0:0:0".to_owned(),)
        );
    }

    #[test]
    fn a_network_has_a_prefix_and_a_resolver_in_it() {
        assert_eq!(network_address(NetworkId(0x18)).to_string(), "fdaa:0:18::");
        assert_eq!(network_dns(NetworkId(0x18)).to_string(), "fdaa:0:18::3");
        assert_eq!(network_of(network_dns(NetworkId(0x12_3456))), Some(NetworkId(0x12_3456)));
    }

    #[test]
    fn other_addresses_belong_to_no_network() {
        assert_eq!(network_of(Ipv6Addr::LOCALHOST), None);
        assert_eq!(network_of("fdab:0:1::2".parse().unwrap()), None);
    }
}
