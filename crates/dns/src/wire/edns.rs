//! What a client says of itself in the OPT record (RFC 6891), and of its own clients (RFC 7871).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::section::{Malformed, RawRecord};
use super::u16_at;

const OPTION_SUBNET: u16 = 8;
const FAMILY_IPV4: u16 = 1;
const FAMILY_IPV6: u16 = 2;
const DNSSEC_OK: u32 = 1 << 15;
const COMPACT_OK: u32 = 1 << 14;

/// A client's OPT record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edns {
    /// The longest answer over UDP that the client takes.
    pub udp_size: u16,
    pub version: u8,
    /// The client wants signatures.
    pub dnssec_ok: bool,
    /// The client takes NXDOMAIN together with a proof of RFC 9824.
    pub compact_ok: bool,
    pub subnet: Option<Subnet>,
}

/// The network for whose sake a resolver asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    pub address: IpAddr,
    /// How many leading bits of the address are told.
    pub prefix: u8,
}

impl Edns {
    pub(super) fn read(record: &RawRecord<'_>) -> Result<Self, Malformed> {
        let mut edns = Self {
            udp_size: record.class,
            version: (record.ttl >> 16) as u8,
            dnssec_ok: record.ttl & DNSSEC_OK != 0,
            compact_ok: record.ttl & COMPACT_OK != 0,
            subnet: None,
        };
        let mut rest = record.data;
        while !rest.is_empty() {
            let (code, length) = (u16_at(rest, 0).ok_or(Malformed)?, u16_at(rest, 2).ok_or(Malformed)?);
            let end = 4 + usize::from(length);
            let value = rest.get(4..end).ok_or(Malformed)?;
            if code == OPTION_SUBNET {
                edns.subnet = Some(Subnet::read(value)?);
            }
            rest = &rest[end..];
        }
        Ok(edns)
    }
}

impl Subnet {
    fn read(value: &[u8]) -> Result<Self, Malformed> {
        let (family, prefix) = (u16_at(value, 0).ok_or(Malformed)?, *value.get(2).ok_or(Malformed)?);
        // The fourth byte is the scope, which only answers have.
        let told = value.get(4..).ok_or(Malformed)?;
        if told.len() != usize::from(prefix).div_ceil(8) {
            return Err(Malformed);
        }
        let mut bytes = [0; 16];
        bytes.get_mut(..told.len()).ok_or(Malformed)?.copy_from_slice(told);
        let address = match (family, prefix) {
            (FAMILY_IPV4, 0..=32) => IpAddr::from(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
            (FAMILY_IPV6, 0..=128) => IpAddr::from(Ipv6Addr::from(bytes)),
            _ => return Err(Malformed),
        };
        // Bits beyond the prefix must not be told (RFC 7871 section 6).
        if mask(address, prefix) != address { Err(Malformed) } else { Ok(Self { address, prefix }) }
    }

    /// Writes the option of an answer that holds for `scope` bits of this subnet.
    pub(super) fn write(&self, scope: u8, out: &mut Vec<u8>) {
        let told = usize::from(self.prefix).div_ceil(8);
        let (family, bytes) = match self.address {
            IpAddr::V4(address) => (FAMILY_IPV4, address.octets().to_vec()),
            IpAddr::V6(address) => (FAMILY_IPV6, address.octets().to_vec()),
        };
        out.extend(OPTION_SUBNET.to_be_bytes());
        out.extend((4 + told as u16).to_be_bytes());
        out.extend(family.to_be_bytes());
        out.extend([self.prefix, scope]);
        out.extend(&bytes[..told]);
    }

    /// Length of the written option.
    pub(super) fn written(&self) -> usize {
        8 + usize::from(self.prefix).div_ceil(8)
    }
}

/// The address with all bits beyond the prefix cleared.
pub(crate) fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let kept = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & kept).into()
        }
        IpAddr::V6(address) => {
            let kept = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & kept).into()
        }
    }
}
