//! Random ids in the forms that clients of the Machines API expect.

use atoll_model::MachineId;
use rand::RngExt as _;

/// Sixteen lower-case letters and digits, as app ids are.
pub(crate) fn random_id() -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..16).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

pub(crate) fn random_machine_id() -> MachineId {
    MachineId::from_random(rand::random())
}

/// Sorts by time and is unique without asking anyone.
pub(crate) fn ordered_id(now_ms: u64) -> String {
    ulid::Ulid::from_parts(now_ms, rand::random()).to_string()
}

/// No [`ordered_id`] of this moment or later sorts before it.
pub(crate) fn lowest_id(at_ms: u64) -> String {
    ulid::Ulid::from_parts(at_ms, 0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_ids_are_sixteen_lower_case_letters_and_digits() {
        let id = random_id();
        assert_eq!(id.len(), 16);
        assert!(id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert_ne!(id, random_id());
    }

    #[test]
    fn ordered_ids_lie_between_the_lowest_of_their_moments() {
        let id = ordered_id(1_800_000_000_000);
        assert!(lowest_id(1_800_000_000_000) <= id && id < lowest_id(1_800_000_000_001));
        assert!(lowest_id(0) < id);
    }
}
