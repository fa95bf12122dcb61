//! Datagrams. All fields but the last are read by anybody and bound to it:
//!
//! ```text
//!  0  "atr"                   4  ticket, 16 bytes     36  number
//!  3  1: early, 2: answer    20  attempt, 16 bytes    37  sealed packet, tag of 16 bytes
//! ```

use crate::packet::{LARGEST_PACKET, SMALLEST_PACKET};
use crate::ticket::{Attempt, TicketId};

const MAGIC: [u8; 3] = *b"atr";
pub const HEADER: usize = 37;
pub const TAG: usize = 16;
/// Anything longer is none of ours.
pub const LARGEST_DATAGRAM: usize = HEADER + LARGEST_PACKET + TAG;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Direction {
    /// Initiator to responder.
    Early = 1,
    /// Back.
    Answer = 2,
}

/// What stands before the sealed packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub direction: Direction,
    pub ticket: TicketId,
    pub attempt: Attempt,
    pub number: u8,
}

impl Header {
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3] = self.direction as u8;
        bytes[4..20].copy_from_slice(&self.ticket.0);
        bytes[20..36].copy_from_slice(&self.attempt.0);
        bytes[36] = self.number;
        bytes
    }

    /// The header and what is sealed behind it, of a datagram that goes in this direction.
    pub fn read(datagram: &[u8], direction: Direction) -> Option<(Self, &[u8])> {
        let (bytes, sealed) = datagram.split_first_chunk::<HEADER>()?;
        let lengths = SMALLEST_PACKET + TAG..=LARGEST_PACKET + TAG;
        if bytes[..3] != MAGIC || bytes[3] != direction as u8 || !lengths.contains(&sealed.len()) {
            return None;
        }
        let header = Self {
            direction,
            ticket: TicketId(bytes[4..20].try_into().ok()?),
            attempt: Attempt(bytes[20..36].try_into().ok()?),
            number: bytes[36],
        };
        Some((header, sealed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_is_read_as_it_was_written(
            ticket: [u8; 16], attempt: [u8; 16], number: u8, back: bool, length in 0..200_usize
        ) {
            let direction = if back { Direction::Answer } else { Direction::Early };
            let header = Header { direction, ticket: TicketId(ticket), attempt: Attempt(attempt), number };
            let mut datagram = header.bytes().to_vec();
            datagram.resize(HEADER + length, 7);
            let read = Header::read(&datagram, direction);
            let fits = (SMALLEST_PACKET + TAG..=LARGEST_PACKET + TAG).contains(&length);
            prop_assert_eq!(read.map(|(header, sealed)| (header, sealed.len())), fits.then_some((header, length)));
            let other = if back { Direction::Early } else { Direction::Answer };
            prop_assert!(Header::read(&datagram, other).is_none());
        }
    }
}
