//! Durations, counted without a lock: each observation is two additions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds: from a request to a machine next door up to the longest hold.
const BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Counts durations by how long they were.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last one is for what is above every bound.
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let index = BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn measured(&self) -> Measured {
        let counts = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        Measured {
            sum: self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6,
            count: counts.iter().sum(),
            buckets: bounds.zip(counts).collect(),
        }
    }
}

/// A histogram at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// Seconds.
    pub(super) sum: f64,
    pub(super) count: u64,
    /// Upper bound in seconds, and how many lie below it but above the one before.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Measured {
    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_exactly_one_bucket() {
        let histogram = Histogram::default();
        for millis in [0, 1, 2, 60_000, 60_001] {
            histogram.observe(Duration::from_millis(millis));
        }
        let measured = histogram.measured();
        assert_eq!(measured.count, 5);
        assert_eq!(measured.sum, 120.004);
        let filled: Vec<_> = measured.buckets.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [&(0.001, 2), &(0.0025, 1), &(60.0, 1), &(f64::INFINITY, 1)]);
    }
}
