//! What a datagram claims to be, before anything is believed. All bytes here come from strangers.

/// Datagrams of one session; beyond it the counter could wrap, and the session must have ended long ago.
const LAST_COUNTER: u64 = u64::MAX - (1 << 13);

/// A datagram's kind and whom it names, from its first bytes and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram {
    /// Somebody wants to agree on keys; who, is encrypted.
    Initiation,
    /// An answer to our initiation, keys or cookie.
    Answer { receiver: u32 },
    /// A packet, or nothing but a sign of life.
    Data { receiver: u32 },
}

impl Datagram {
    /// None for what is no datagram of the protocol.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        match (word(0)?, bytes.len()) {
            (1, 148) => Some(Self::Initiation),
            (2, 92) => Some(Self::Answer { receiver: word(8)? }),
            (3, 64) => Some(Self::Answer { receiver: word(4)? }),
            (4, 32..) => {
                let counter = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
                (counter <= LAST_COUNTER).then_some(Self::Data { receiver: word(4)? })
            }
            _ => None,
        }
    }
}

/// Where an IP packet wants to go; none if it is not one.
pub fn destination(packet: &[u8]) -> Option<std::net::IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?.into()),
        6 => Some(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?.into()),
        _ => None,
    }
}

/// Where an IP packet says it comes from; none if it is not one.
pub fn source(packet: &[u8]) -> Option<std::net::IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?.into()),
        6 => Some(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&7_u32.to_le_bytes());
        if length >= 12 {
            bytes[8..12].copy_from_slice(&9_u32.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn kinds_have_their_lengths() {
        assert_eq!(Datagram::of(&datagram(1, 148)), Some(Datagram::Initiation));
        assert_eq!(Datagram::of(&datagram(2, 92)), Some(Datagram::Answer { receiver: 9 }));
        assert_eq!(Datagram::of(&datagram(3, 64)), Some(Datagram::Answer { receiver: 7 }));
        assert_eq!(Datagram::of(&datagram(4, 32)), Some(Datagram::Data { receiver: 7 }));
        for (kind, length) in [(0, 148), (1, 147), (1, 149), (2, 91), (3, 65), (4, 31), (5, 200)] {
            assert_eq!(Datagram::of(&datagram(kind, length)), None, "kind {kind}, {length} bytes");
        }
        for bytes in [&[][..], &[4], &[4, 0, 0], &[4, 0, 0, 1, 0, 0, 0, 0]] {
            assert_eq!(Datagram::of(bytes), None);
        }
    }

    #[test]
    fn counters_that_could_wrap_are_no_datagrams() {
        let mut bytes = datagram(4, 64);
        bytes[8..16].copy_from_slice(&LAST_COUNTER.to_le_bytes());
        assert!(Datagram::of(&bytes).is_some());
        bytes[8..16].copy_from_slice(&(LAST_COUNTER + 1).to_le_bytes());
        assert_eq!(Datagram::of(&bytes), None);
    }

    #[test]
    fn destinations_are_read_from_whole_headers_only() {
        let mut packet = [0; 40];
        packet[0] = 0x60;
        packet[39] = 1;
        assert_eq!(destination(&packet), Some("::1".parse().unwrap()));
        assert_eq!(destination(&packet[..39]), None);
        packet[0] = 0x45;
        packet[16] = 10;
        assert_eq!(destination(&packet[..20]), Some("10.0.0.0".parse().unwrap()));
        assert_eq!(destination(&packet[..19]), None);
        packet[0] = 0x50;
        assert_eq!(destination(&packet), None);
        assert_eq!(destination(&[]), None);
    }
}
