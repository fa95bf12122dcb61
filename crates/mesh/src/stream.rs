//! WireGuard's datagrams in a stream of bytes, for networks that let no UDP through: whoever opens the stream
//! begins with a magic number; then each datagram follows its length, in four bytes. In which pieces the
//! bytes arrive means nothing.

/// What the side that opens a stream begins with.
pub const MAGIC: [u8; 4] = 0x2FAC_ED77_u32.to_be_bytes();
/// No UDP datagram is larger.
pub const LARGEST: usize = 65_535;
const LENGTH: usize = 4;

/// Bytes that are no such stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("the stream begins with something else than WireGuard's datagrams")]
    Magic,
    #[error("a datagram of {0} bytes is announced, and {LARGEST} are the most")]
    TooLarge(u32),
}

/// A datagram as it travels in a stream.
#[must_use]
pub fn framed(datagram: &[u8]) -> Vec<u8> {
    let length = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), datagram].concat()
}

/// Puts a stream's pieces together. Holds less than one datagram.
#[derive(Debug)]
pub struct Unframer {
    rest: Vec<u8>,
    magic: bool,
}

impl Unframer {
    /// For the side that opens the stream.
    #[must_use]
    pub fn of_opener() -> Self {
        Self { rest: Vec::new(), magic: false }
    }

    /// For the side that accepts the stream, which is told the magic number first.
    #[must_use]
    pub fn of_accepter() -> Self {
        Self { rest: Vec::new(), magic: true }
    }

    /// Takes the next piece, and gives each datagram that it completes.
    ///
    /// # Errors
    /// If this is no such stream; nothing can be read of it any more.
    pub fn push(&mut self, piece: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), StreamError> {
        self.rest.extend_from_slice(piece);
        let mut bytes = self.rest.as_slice();
        if self.magic {
            let known = bytes.len().min(MAGIC.len());
            if bytes[..known] != MAGIC[..known] {
                return Err(StreamError::Magic);
            }
            if known == MAGIC.len() {
                self.magic = false;
                bytes = &bytes[known..];
            }
        }
        while let Some((length, after)) = bytes.split_first_chunk::<LENGTH>().filter(|_| !self.magic) {
            let length = u32::from_be_bytes(*length);
            let size = usize::try_from(length).ok().filter(|size| *size <= LARGEST);
            let size = size.ok_or(StreamError::TooLarge(length))?;
            let Some((datagram, rest)) = after.split_at_checked(size) else { break };
            each(datagram);
            bytes = rest;
        }
        let done = self.rest.len() - bytes.len();
        self.rest.drain(..done);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_such_stream_is_noticed_at_its_first_byte() {
        let none = |_: &[u8]| panic!("there is no datagram");
        assert_eq!(Unframer::of_accepter().push(b"GET", none), Err(StreamError::Magic));
        assert_eq!(Unframer::of_accepter().push(&MAGIC[..3], none), Ok(()));
        let large = 65_536_u32.to_be_bytes();
        assert_eq!(Unframer::of_opener().push(&large, none), Err(StreamError::TooLarge(65_536)));
    }

    proptest! {
        #[test]
        fn datagrams_come_out_as_they_went_in_whatever_the_pieces(
            datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..10),
            pieces in proptest::collection::vec(1..200_usize, 1..40),
        ) {
            let stream: Vec<u8> =
                MAGIC.into_iter().chain(datagrams.iter().flat_map(|datagram| framed(datagram))).collect();
            let (mut unframer, mut came, mut rest) = (Unframer::of_accepter(), Vec::new(), stream.as_slice());
            let mut sizes = pieces.iter().cycle();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                unframer.push(piece, |datagram| came.push(datagram.to_vec())).unwrap();
                rest = after;
            }
            prop_assert_eq!(came, datagrams);
            prop_assert!(unframer.rest.is_empty());
        }

        #[test]
        fn no_bytes_make_it_hold_more_than_one_datagram(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut unframer = Unframer::of_opener();
            let read = unframer.push(&bytes, |datagram| assert!(datagram.len() <= LARGEST));
            prop_assert!(read.is_err() || unframer.rest.len() <= LARGEST + LENGTH);
        }
    }
}
