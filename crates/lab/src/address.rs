//! The one numbering of a world: a host's port on the switch gives its addresses. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The most hosts a world may have; the last byte of an IPv4 address counts them.
pub const MAX_HOSTS: usize = 250;

/// The address at which every edge serves; each node has it on its loopback.
pub const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// What nodes announce by BGP where there are autonomous systems: it covers [`SERVICE_ADDRESS`].
pub const SERVICE_PREFIX: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 51, 100, 0), 24);

/// Locally administered prefix of the hosts' hardware addresses; the port number follows.
const MAC_PREFIX: [u8; 4] = [0x02, 0x61, 0x74, 0x6c];

/// A host's place on the switch: its position in the world, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Port(pub usize);

impl Port {
    // A port is below MAX_HOSTS, so that its number from 1 fits a byte.
    fn number(self) -> u8 {
        self.0 as u8 + 1
    }

    pub fn mac(self) -> [u8; 6] {
        let [a, b, c, d] = MAC_PREFIX;
        [a, b, c, d, 0, self.number()]
    }

    pub fn mac_text(self) -> String {
        self.mac().map(|byte| format!("{byte:02x}")).join(":")
    }

    pub fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number())
    }

    /// Whose IPv4 address this is, if a port may have it.
    pub fn of(address: Ipv4Addr) -> Option<Self> {
        match address.octets() {
            [10, 77, 0, number] if number > 0 => Some(Self(usize::from(number) - 1)),
            _ => None,
        }
    }

    pub fn ipv6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, self.number().into())
    }
}

/// To whom a frame is addressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    One(Port),
    Everyone,
    /// A hardware address outside the world.
    Nobody,
}

/// Reads the destination of an Ethernet frame.
pub fn destination(frame: &[u8]) -> Destination {
    match *frame {
        [first, ..] if first & 1 == 1 => Destination::Everyone,
        [a, b, c, d, 0, number, ..] if [a, b, c, d] == MAC_PREFIX && number > 0 => {
            Destination::One(Port(usize::from(number) - 1))
        }
        _ => Destination::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ports_own_frame_comes_back_to_it() {
        for port in [Port(0), Port(7), Port(MAX_HOSTS - 1)] {
            assert_eq!(destination(&port.mac()), Destination::One(port));
        }
        assert_eq!(Port::of(Port(7).ipv4()), Some(Port(7)));
        assert_eq!(Port::of(SERVICE_ADDRESS), None);
        assert_eq!(Port(0).ipv4().to_string(), "10.77.0.1");
        assert_eq!(Port(1).ipv6().to_string(), "fd00:77::2");
        assert_eq!(Port(0).mac_text(), "02:61:74:6c:00:01");
    }

    #[test]
    fn broadcast_multicast_and_strangers_are_told_apart() {
        assert_eq!(destination(&[0xff; 14]), Destination::Everyone);
        assert_eq!(destination(&[0x33, 0x33, 0, 0, 0, 1]), Destination::Everyone);
        assert_eq!(destination(&[0x02, 0, 0, 0, 0, 9]), Destination::Nobody);
        assert_eq!(destination(&[0x02, 0x61, 0x74, 0x6c, 0, 0]), Destination::Nobody);
        assert_eq!(destination(&[]), Destination::Nobody);
    }
}
