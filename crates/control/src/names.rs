//! Names for machines that nobody named: `adjective-noun-number`, as clients know them.

const ADJECTIVES: &[&str] = &[
    "amber", "bold", "brisk", "calm", "clear", "coral", "crisp", "deep", "early", "fair", "gentle", "golden", "keen",
    "late", "light", "mild", "quick", "quiet", "rapid", "shy", "silver", "sleek", "steady", "still", "swift", "warm",
];
const NOUNS: &[&str] = &[
    "atoll", "bay", "beach", "cape", "cay", "cove", "current", "dune", "eddy", "foam", "gull", "harbor", "island",
    "kelp", "lagoon", "pearl", "petrel", "reef", "sail", "sand", "shell", "shoal", "spray", "surf", "tide", "wave",
];

/// The name that `random` stands for.
pub fn machine_name(random: u64) -> String {
    let pick = |list: &[&'static str], from: u64| list[(from % list.len() as u64) as usize];
    let adjective = pick(ADJECTIVES, random);
    let noun = pick(NOUNS, random >> 16);
    format!("{adjective}-{noun}-{:04}", (random >> 32) % 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_three_words() {
        for random in [0, 1 << 16, u64::MAX] {
            assert_eq!(machine_name(random).split('-').count(), 3);
        }
    }
}
