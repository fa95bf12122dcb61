//! How long to wait before a transaction is run again: bounded, growing, jittered.

use std::time::Duration;

/// Attempts of one write, the first included. With the delays below that is about five seconds.
pub(crate) const ATTEMPTS: u32 = 16;

const FIRST: Duration = Duration::from_millis(4);
const LONGEST: Duration = Duration::from_millis(500);

/// The pause after failed attempt number `attempt` (from 0). `chance` lies in `0.0..1.0`; spreading
/// over the whole interval keeps writers that collided once from colliding again.
pub(crate) fn pause(attempt: u32, chance: f64) -> Duration {
    let ceiling = FIRST.saturating_mul(1 << attempt.min(16)).min(LONGEST);
    ceiling.mul_f64(chance.clamp(0.0, 1.0)).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert_eq!(pause(0, 1.0), Duration::from_millis(4));
        assert_eq!(pause(3, 1.0), Duration::from_millis(32));
        assert_eq!(pause(3, 0.5), Duration::from_millis(16));
        assert_eq!(pause(1000, 1.0), LONGEST);
        assert_eq!(pause(5, 0.0), Duration::from_millis(1));
    }
}
