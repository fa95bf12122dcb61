//! A rate limit: frames follow each other no faster than the rate, and a bounded time of them waits.
//! A token bucket of depth zero, kept as the time at which it is free again. Pure.

use std::time::Duration;

/// The most time worth of frames that waits for the rate; routers are built about like that.
const MAX_QUEUE: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub struct Shaper {
    free_at: Duration,
}

impl Shaper {
    /// When the last bit of a frame has been sent at `rate` bits a second; none if the queue is full.
    pub fn send(&mut self, now: Duration, bytes: usize, rate: u64) -> Option<Duration> {
        let start = self.free_at.max(now);
        if start - now > MAX_QUEUE {
            return None;
        }
        self.free_at = start + Duration::from_secs_f64(bytes as f64 * 8.0 / rate.max(1) as f64);
        Some(self.free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABIT: u64 = 1_000_000;

    #[test]
    fn frames_follow_each_other_at_the_rate() {
        let mut shaper = Shaper::default();
        let millisecond = Duration::from_millis(1);
        // 1250 bytes at 10 Mbit/s take one millisecond.
        for frame in 1..=5 {
            assert_eq!(shaper.send(Duration::ZERO, 1_250, 10 * MEGABIT), Some(millisecond * frame));
        }
    }

    #[test]
    fn an_idle_time_saves_nothing_up() {
        let mut shaper = Shaper::default();
        let later = Duration::from_secs(10);
        assert_eq!(shaper.send(later, 1_250, 10 * MEGABIT), Some(later + Duration::from_millis(1)));
    }

    #[test]
    fn the_queue_is_bounded_and_drains() {
        let mut shaper = Shaper::default();
        let accepted = (0..1_000).filter(|_| shaper.send(Duration::ZERO, 1_250, 10 * MEGABIT).is_some()).count();
        assert_eq!(accepted, 201);
        assert!(shaper.send(Duration::from_millis(10), 1_250, 10 * MEGABIT).is_some());
    }
}
