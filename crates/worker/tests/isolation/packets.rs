//! Packets made by hand, byte by byte: what no honest stack sends must be sent, too.

use std::net::{Ipv4Addr, Ipv6Addr};

pub const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
pub const DESTINATION_OPTIONS: u8 = 60;

pub const NEIGHBOUR_SOLICITATION: u8 = 135;

/// Of ICMP and of ICMPv6.
pub const ECHO_REPLY: u8 = 0;
pub const ECHO_REPLY_V6: u8 = 129;

const SOURCE_PORT: u16 = 40_000;

/// What follows an IP header: its protocol and its bytes.
pub type Payload = (u8, Vec<u8>);

pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, (next, body): Payload) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((body.len() as u16).to_be_bytes());
    // 255: neighbour discovery is heard with nothing less.
    packet.extend([next, 255]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(body);
    packet
}

/// `options` has a length that is a multiple of four; `offset` is in units of eight bytes.
pub fn ipv4_with(
    from: Ipv4Addr,
    to: Ipv4Addr,
    options: &[u8],
    (more, offset): (bool, u16),
    payload: Payload,
) -> Vec<u8> {
    let (protocol, body) = payload;
    let header = 20 + options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(((header + body.len()) as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend((u16::from(more) << 13 | offset).to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(body);
    packet
}

pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, payload: Payload) -> Vec<u8> {
    ipv4_with(from, to, &[], (false, 0), payload)
}

/// What a checksum above IP covers beside its own bytes.
pub enum Between {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Between {
    fn pseudo_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::V4(from, to) => {
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
            Self::V6(from, to) => {
                bytes.extend(from.octets());
                bytes.extend(to.octets());
            }
        }
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, 0, 0, protocol]);
        bytes
    }

    fn summed(&self, protocol: u8, mut body: Vec<u8>, at: usize) -> Payload {
        let mut covered = self.pseudo_header(protocol, body.len());
        covered.extend(&body);
        body[at..at + 2].copy_from_slice(&checksum(&covered));
        (protocol, body)
    }

    pub fn udp(&self, port: u16, data: &[u8]) -> Payload {
        let mut body = Vec::new();
        for field in [SOURCE_PORT, port, 8 + data.len() as u16, 0] {
            body.extend(field.to_be_bytes());
        }
        body.extend(data);
        self.summed(UDP, body, 6)
    }

    /// The first packet of a connection, with data in it.
    pub fn syn(&self, port: u16, data: &[u8]) -> Payload {
        let mut body = Vec::new();
        body.extend(SOURCE_PORT.to_be_bytes());
        body.extend(port.to_be_bytes());
        body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        body.extend(data);
        self.summed(TCP, body, 16)
    }

    /// Type, code 0, and what follows the checksum.
    pub fn icmpv6(&self, kind: u8, rest: &[u8]) -> Payload {
        let mut body = vec![kind, 0, 0, 0];
        body.extend(rest);
        self.summed(ICMPV6, body, 2)
    }
}

/// Type, code 0, and what follows the checksum, which covers nothing else.
pub fn icmp(kind: u8, rest: &[u8]) -> Payload {
    let mut body = vec![kind, 0, 0, 0];
    body.extend(rest);
    let sum = checksum(&body);
    body[2..4].copy_from_slice(&sum);
    (ICMP, body)
}

/// Puts an extension header before a payload. `content` has a length that fills units of eight bytes
/// with two bytes more.
pub fn extended(header: u8, content: &[u8], (next, body): Payload) -> Payload {
    let mut bytes = vec![next, ((content.len() + 2) / 8 - 1) as u8];
    bytes.extend(content);
    bytes.extend(body);
    (header, bytes)
}

/// A routing header of a type with one address still to visit.
pub fn routed(kind: u8, by: Ipv6Addr, payload: Payload) -> Payload {
    let mut content = vec![kind, 1, 0, 0, 0, 0];
    content.extend(by.octets());
    extended(ROUTING, &content, payload)
}

/// A piece, `offset` bytes into what all pieces of this `id` make up.
pub fn fragment(id: u32, next: u8, offset: usize, more: bool, body: &[u8]) -> Payload {
    let mut bytes = vec![next, 0];
    bytes.extend((offset as u16 | u16::from(more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(body);
    (FRAGMENT, bytes)
}

/// An ARP packet; `operation` is 1 to ask, 2 to answer.
pub fn arp(operation: u16, mac: [u8; 6], from: Ipv4Addr, about: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(mac);
    packet.extend(from.octets());
    packet.extend([0; 6]);
    packet.extend(about.octets());
    packet
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
