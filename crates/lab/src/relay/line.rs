//! One ordered pair's delay line: decides when, and whether, a frame leaves. Pure: time and chance are
//! given. Times are durations since an arbitrary start.

use std::time::Duration;

use super::chance::Chance;
use super::shaper::Shaper;
use crate::path::Path;

/// Bytes in flight on one line before frames are dropped: a gigabit over half a second.
const MAX_IN_FLIGHT: usize = 64 << 20;

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Leaves(Duration),
    /// Lost by chance.
    Lost,
    /// Dropped because the line or the shaper's queue is full.
    Overflow,
    /// No path leads there.
    Unreachable,
}

/// The state of one ordered pair. Frames leave in the order they came, whatever the jitter and
/// whenever the path changes.
#[derive(Debug, Default)]
pub struct Line {
    path: Option<Path>,
    shaper: Shaper,
    last_leaves: Duration,
    in_flight: usize,
}

impl Line {
    /// Changes the path for frames yet to come.
    pub fn set_path(&mut self, path: Option<Path>) {
        self.path = path;
        self.shaper = Shaper::default();
    }

    /// Judges a frame of `bytes` that arrives now.
    pub fn admit(&mut self, now: Duration, bytes: usize, chance: &mut Chance) -> Verdict {
        let Some(path) = self.path else { return Verdict::Unreachable };
        if path.loss > 0.0 && chance.fraction() < path.loss {
            return Verdict::Lost;
        }
        if self.in_flight + bytes > MAX_IN_FLIGHT {
            return Verdict::Overflow;
        }
        let sent = match path.rate {
            Some(rate) => match self.shaper.send(now, bytes, rate) {
                Some(sent) => sent,
                None => return Verdict::Overflow,
            },
            None => now,
        };
        let least = path.delay.saturating_sub(path.jitter);
        let spread = path.delay + path.jitter - least;
        let delay = if spread.is_zero() { path.delay } else { least + spread.mul_f64(chance.fraction()) };
        let leaves = (sent + delay).max(self.last_leaves);
        self.last_leaves = leaves;
        self.in_flight += bytes;
        Verdict::Leaves(leaves)
    }

    /// A frame of `bytes` has left, or was dropped in flight.
    pub fn left(&mut self, bytes: usize) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// Nothing is in flight any more; later frames need not queue behind what is gone.
    pub fn emptied(&mut self) {
        self.in_flight = 0;
        self.last_leaves = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn line(path: Path) -> Line {
        let mut line = Line::default();
        line.set_path(Some(path));
        line
    }

    #[test]
    fn a_frame_leaves_after_exactly_the_delay() {
        let mut line = line(Path::delayed(ms(20)));
        assert_eq!(line.admit(ms(5), 100, &mut Chance::seeded(1)), Verdict::Leaves(ms(25)));
    }

    #[test]
    fn without_a_path_nothing_passes() {
        assert_eq!(Line::default().admit(ms(0), 100, &mut Chance::seeded(1)), Verdict::Unreachable);
    }

    #[test]
    fn a_shorter_delay_does_not_overtake() {
        let mut line = line(Path::delayed(ms(100)));
        let mut chance = Chance::seeded(1);
        assert_eq!(line.admit(ms(0), 1, &mut chance), Verdict::Leaves(ms(100)));
        line.set_path(Some(Path::delayed(ms(1))));
        assert_eq!(line.admit(ms(1), 1, &mut chance), Verdict::Leaves(ms(100)));
        assert_eq!(line.admit(ms(200), 1, &mut chance), Verdict::Leaves(ms(201)));
    }

    #[test]
    fn loss_is_about_what_was_set() {
        let mut line = line(Path { loss: 0.05, ..Path::default() });
        let mut chance = Chance::seeded(3);
        let lost = (0..20_000).filter(|_| line.admit(ms(0), 1, &mut chance) == Verdict::Lost).count();
        assert!((850..1_150).contains(&lost), "{lost} of 20000 lost at 5 %");
    }

    #[test]
    fn a_full_line_drops_until_something_left() {
        let mut line = line(Path::delayed(ms(100)));
        let mut chance = Chance::seeded(1);
        assert!(matches!(line.admit(ms(0), MAX_IN_FLIGHT, &mut chance), Verdict::Leaves(_)));
        assert_eq!(line.admit(ms(0), 1, &mut chance), Verdict::Overflow);
        line.left(MAX_IN_FLIGHT);
        assert!(matches!(line.admit(ms(0), 1, &mut chance), Verdict::Leaves(_)));
    }

    proptest! {
        #[test]
        fn order_is_kept_and_delay_stays_in_bounds(
            gaps in prop::collection::vec(0u64..5_000, 1..200),
            delay_us in 0u64..50_000,
            jitter_us in 0u64..60_000,
            seed: u64,
        ) {
            let (delay, jitter) = (Duration::from_micros(delay_us), Duration::from_micros(jitter_us));
            let mut line = line(Path { delay, jitter, ..Path::default() });
            let mut chance = Chance::seeded(seed);
            let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
            for gap in gaps {
                now += Duration::from_micros(gap);
                let Verdict::Leaves(leaves) = line.admit(now, 100, &mut chance) else {
                    return Err(TestCaseError::fail("dropped"));
                };
                prop_assert!(leaves >= last);
                prop_assert!(leaves >= now + delay.saturating_sub(jitter));
                prop_assert!(leaves <= (now + delay + jitter).max(last));
                last = leaves;
            }
        }
    }
}
