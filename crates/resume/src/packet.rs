//! What may travel early: the segment that asks for a TCP connection, and the one that answers it. Neither
//! carries a byte of an application. A segment that opens a connection may arrive twice at any time in any
//! network, so repeating one does nothing that an attacker could not do by delaying it.
//!
//! DNS is not among it: machines ask the server they run on, and no question travels between servers.

use std::net::Ipv6Addr;

const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const TCP: u8 = 6;

/// An IPv6 header and the longest TCP header.
pub const LARGEST_PACKET: usize = IPV6_HEADER + 60;
pub(crate) const SMALLEST_PACKET: usize = IPV6_HEADER + TCP_HEADER;

const RST: u8 = 0x04;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Those of explicit congestion notification, which it is negotiated by.
const CONGESTION: u8 = 0xc0;

/// A connection, as whoever opens it sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flow {
    pub from: (Ipv6Addr, u16),
    pub to: (Ipv6Addr, u16),
}

/// The connection that a packet asks for, if that is all it does.
#[must_use]
pub fn opened(packet: &[u8]) -> Option<Flow> {
    let (flow, flags) = bare_segment(packet)?;
    (flags & !CONGESTION == SYN).then_some(flow)
}

/// The connection that a packet agrees to or refuses, if that is all it does.
#[must_use]
pub fn answered(packet: &[u8]) -> Option<Flow> {
    let (flow, flags) = bare_segment(packet)?;
    let flags = flags & !CONGESTION;
    (flags == SYN | ACK || flags == RST | ACK).then_some(Flow { from: flow.to, to: flow.from })
}

/// Sender, receiver and flags of a whole TCP segment that is nothing but a header, directly in IPv6.
fn bare_segment(packet: &[u8]) -> Option<(Flow, u8)> {
    let (ip, tcp) = packet.split_first_chunk::<IPV6_HEADER>()?;
    let (fixed, _) = tcp.split_first_chunk::<TCP_HEADER>()?;
    let whole = usize::from(u16::from_be_bytes([ip[4], ip[5]])) == tcp.len();
    let bare = usize::from(fixed[12] >> 4) * 4 == tcp.len();
    if ip[0] >> 4 != 6 || ip[6] != TCP || !whole || !bare {
        return None;
    }
    let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
    let port = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let flow = Flow { from: (address(8)?, port(0)), to: (address(24)?, port(2)) };
    Some((flow, fixed[13]))
}

/// A segment of nothing but a header, for tests and seeds.
pub(crate) fn segment(flow: &Flow, flags: u8, options: usize) -> Vec<u8> {
    let length = TCP_HEADER + options / 4 * 4;
    let mut packet = vec![0; IPV6_HEADER + length];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    (packet[6], packet[7]) = (TCP, 64);
    packet[8..24].copy_from_slice(&flow.from.0.octets());
    packet[24..40].copy_from_slice(&flow.to.0.octets());
    packet[40..42].copy_from_slice(&flow.from.1.to_be_bytes());
    packet[42..44].copy_from_slice(&flow.to.1.to_be_bytes());
    packet[52] = ((length / 4) << 4) as u8;
    packet[53] = flags;
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow() -> Flow {
        let host = |last| Ipv6Addr::new(0xfdaa, 0, 24, 0, 0, 0, 0, last);
        Flow { from: (host(1), 40_000), to: (host(2), 8080) }
    }

    #[test]
    fn what_opens_a_connection_is_told_from_what_answers_it_and_from_the_rest() {
        let back = Flow { from: flow().to, to: flow().from };
        for flags in 0..=255_u8 {
            let plain = flags & !CONGESTION;
            let packet = segment(&flow(), flags, 20);
            assert_eq!(opened(&packet), (plain == SYN).then_some(flow()), "{flags:#x}");
            let answers = plain == SYN | ACK || plain == RST | ACK;
            assert_eq!(answered(&packet), answers.then_some(back), "{flags:#x}");
        }
    }

    #[test]
    fn a_segment_with_anything_behind_its_header_waits() {
        for options in [0, 4, 40] {
            let packet = segment(&flow(), SYN, options);
            assert!(opened(&packet).is_some() && packet.len() <= LARGEST_PACKET);
            // Said to be longer, longer, cut short, and with the first byte of what an application says.
            let mut longer = packet.clone();
            longer.push(b'x');
            assert!(opened(&longer).is_none());
            let length = u16::from_be_bytes([longer[4], longer[5]]) + 1;
            longer[4..6].copy_from_slice(&length.to_be_bytes());
            assert!(opened(&longer).is_none());
            assert!(opened(&packet[..packet.len() - 1]).is_none());
        }
    }

    #[test]
    fn other_protocols_and_headers_between_wait() {
        for protocol in (0..=255).filter(|protocol| *protocol != TCP) {
            let mut packet = segment(&flow(), SYN, 20);
            packet[6] = protocol;
            assert!(opened(&packet).is_none() && answered(&packet).is_none());
        }
        let mut packet = segment(&flow(), SYN, 20);
        packet[0] = 0x45;
        assert!(opened(&packet).is_none());
    }

    proptest! {
        #[test]
        fn noise_is_judged_without_harm(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(opened(&noise).is_none() || noise.len() <= LARGEST_PACKET);
            prop_assert!(answered(&noise).is_none() || noise.len() <= LARGEST_PACKET);
        }
    }
}
