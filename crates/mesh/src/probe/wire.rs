//! Probes as datagrams: 4 bytes that name them, what it is, and a number that comes back as it was.
//! They travel inside the mesh, which proves who sent them.

const MAGIC: [u8; 4] = *b"atlp";
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;

pub const LENGTH: usize = 13;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Question(u64),
    Answer(u64),
}

impl Probe {
    pub fn bytes(self) -> [u8; LENGTH] {
        let (kind, number) = match self {
            Self::Question(number) => (QUESTION, number),
            Self::Answer(number) => (ANSWER, number),
        };
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = kind;
        bytes[5..].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    /// None for what is no probe.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (kind, number) = rest.split_first()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        match (*magic == MAGIC, *kind) {
            (true, QUESTION) => Some(Self::Question(number)),
            (true, ANSWER) => Some(Self::Answer(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn probes_are_read_as_they_were_written_and_nothing_else_is_one(
            number: u64, noise in proptest::collection::vec(any::<u8>(), 0..20)
        ) {
            for probe in [Probe::Question(number), Probe::Answer(number)] {
                prop_assert_eq!(Probe::of(&probe.bytes()), Some(probe));
                prop_assert_eq!(Probe::of(&probe.bytes()[..12]), None);
            }
            prop_assert!(Probe::of(&noise).is_none_or(|probe| probe.bytes()[..] == noise[..]));
        }
    }
}
