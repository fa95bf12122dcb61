//! Datagrams on their way to the socket.

use std::ops::Range;

use super::peer::Endpoint;

/// Datagrams that the kernel takes in one call.
const MAX_SEGMENTS: usize = 64;
/// Bytes that it takes in one call, over IPv4 and IPv6.
const MAX_BYTES: usize = 65_000;

/// Few and small: handshakes, signs of life, what waited for a handshake.
#[derive(Debug, Default)]
pub struct Outbox {
    pub datagrams: Vec<(Endpoint, Vec<u8>)>,
}

impl Outbox {
    pub fn push(&mut self, to: Endpoint, datagram: &[u8]) {
        self.datagrams.push((to, datagram.to_vec()));
    }
}

/// Datagrams for one place that lie one after another in the buffer. All but the last have the size
/// `segment`; the last may be shorter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Burst {
    pub to: Endpoint,
    pub range: Range<usize>,
    pub segment: usize,
}

/// Packets encrypted into one buffer.
pub struct Bursts {
    pub buffer: Vec<u8>,
    pub bursts: Vec<Burst>,
    end: usize,
}

impl Bursts {
    /// Room for `bytes` of datagrams in all.
    pub fn new(bytes: usize) -> Self {
        Self { buffer: vec![0; bytes], bursts: Vec::new(), end: 0 }
    }

    pub fn clear(&mut self) {
        self.bursts.clear();
        self.end = 0;
    }

    /// Where the next datagram is to be written.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.end..]
    }

    /// The first `length` bytes of the room are a datagram.
    pub fn push(&mut self, to: Endpoint, length: usize) {
        let begin = self.end;
        self.end += length;
        if let Some(last) = self.bursts.last_mut() {
            let bytes = last.range.len();
            // A shorter one was the last of its burst.
            let whole = bytes % last.segment == 0;
            let fits = bytes / last.segment < MAX_SEGMENTS && bytes + length <= MAX_BYTES;
            if last.to == to && last.range.end == begin && length <= last.segment && whole && fits {
                last.range.end = self.end;
                return;
            }
        }
        self.bursts.push(Burst { to, range: begin..self.end, segment: length });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(port: u16) -> Endpoint {
        std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()
    }

    #[test]
    fn equal_datagrams_for_one_place_go_together_and_a_shorter_one_ends_them() {
        let mut bursts = Bursts::new(10_000);
        for (port, length) in [(1, 100), (1, 100), (1, 40), (1, 40), (2, 40), (2, 50)] {
            bursts.push(to(port), length);
        }
        let told: Vec<_> = bursts.bursts.iter().map(|burst| (burst.range.clone(), burst.segment)).collect();
        assert_eq!(told, [(0..240, 100), (240..280, 40), (280..320, 40), (320..370, 50)]);
    }

    proptest! {
        /// What the kernel cuts is what was put in.
        #[test]
        fn a_burst_is_cut_into_the_datagrams_that_made_it(
            datagrams in proptest::collection::vec((1..3_u16, prop_oneof![Just(1452_usize), 1..1500_usize]), 1..200)
        ) {
            let mut bursts = Bursts::new(400_000);
            for (port, length) in &datagrams {
                bursts.push(to(*port), *length);
            }
            let mut cut = Vec::new();
            for burst in &bursts.bursts {
                let bytes = &bursts.buffer[burst.range.clone()];
                prop_assert!(bytes.len() <= MAX_BYTES && bytes.chunks(burst.segment).len() <= MAX_SEGMENTS);
                cut.extend(bytes.chunks(burst.segment).map(|one| (burst.to.remote.port(), one.len())));
            }
            prop_assert_eq!(cut, datagrams);
        }
    }
}
