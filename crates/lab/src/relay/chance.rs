//! Seeded chance for loss and jitter, so that a run can be repeated.

/// SplitMix64: one addition and three multiplications a number, plenty for dropping packets.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0.0..1.0`.
    pub fn fraction(&mut self) -> f64 {
        // 53 bits, as many as the fraction of a double holds.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let run = |seed| {
            let mut chance = Chance::seeded(seed);
            (0..10).map(|_| chance.fraction()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn fractions_are_uniform_enough() {
        let mut chance = Chance::seeded(1);
        let below = (0..100_000).filter(|_| chance.fraction() < 0.02).count();
        assert!((1_800..2_200).contains(&below), "{below} of 100000 below 2 %");
    }
}
