//! When a check probes next and what its results mean. Probes begin at once and come quickly until
//! the first pass; the grace period excuses failures and never delays a probe.

use std::time::Duration;

/// The timing of one check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Between probes once it has passed.
    pub interval: Duration,
    pub timeout: Duration,
    /// Since the start; failures in it are excused while the check has not passed yet.
    pub grace: Duration,
    /// Wait after the first failed probe; doubles up to the interval until the first pass.
    pub first_wait: Duration,
}

/// What a check says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Passing,
    /// Not yet passed, failures still excused.
    Waiting,
    Critical,
}

/// The history of one check that matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    timing: Timing,
    status: Status,
    /// The wait after the next failure.
    wait: Duration,
    has_passed: bool,
}

/// Longest interval that failures stretch to, as a multiple of the configured one.
const MAX_STRETCH: u32 = 4;

impl Schedule {
    pub fn new(timing: Timing) -> Self {
        Self { timing, status: Status::Waiting, wait: timing.first_wait.min(timing.interval), has_passed: false }
    }

    pub fn status(&self) -> Status {
        self.status
    }

    /// Takes a result that came `since_start` after the machine's start, and says how long to wait
    /// until the next probe.
    pub fn observe(&mut self, passed: bool, since_start: Duration) -> Duration {
        if passed {
            self.has_passed = true;
            self.status = Status::Passing;
            self.wait = self.timing.interval;
            return self.timing.interval;
        }
        let excused = !self.has_passed && since_start < self.timing.grace;
        self.status = if excused { Status::Waiting } else { Status::Critical };
        let wait = self.wait;
        let longest = if self.has_passed { self.timing.interval * MAX_STRETCH } else { self.timing.interval };
        self.wait = (self.wait * 2).min(longest);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn timing(interval: u32, grace: u32) -> Timing {
        Timing { interval: MS * interval, timeout: MS, grace: MS * grace, first_wait: MS * 25 }
    }

    #[test]
    fn probes_come_quickly_until_the_first_pass() {
        let mut schedule = Schedule::new(timing(150, 1000));
        let waits: Vec<_> = (0..5).map(|_| schedule.observe(false, MS).as_millis()).collect();
        assert_eq!(waits, [25, 50, 100, 150, 150]);
        assert_eq!(schedule.status(), Status::Waiting);
        assert_eq!(schedule.observe(true, MS).as_millis(), 150);
        assert_eq!(schedule.status(), Status::Passing);
    }

    #[test]
    fn grace_excuses_only_before_the_first_pass() {
        let mut schedule = Schedule::new(timing(100, 1000));
        schedule.observe(false, MS * 999);
        assert_eq!(schedule.status(), Status::Waiting);
        schedule.observe(false, MS * 1000);
        assert_eq!(schedule.status(), Status::Critical);

        let mut schedule = Schedule::new(timing(100, 1000));
        schedule.observe(true, MS);
        schedule.observe(false, MS * 2);
        assert_eq!(schedule.status(), Status::Critical);
    }

    #[test]
    fn failures_after_a_pass_back_off() {
        let mut schedule = Schedule::new(timing(100, 0));
        schedule.observe(true, MS);
        let waits: Vec<_> = (0..5).map(|_| schedule.observe(false, MS).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 400, 400]);
    }

    proptest! {
        #[test]
        fn the_wait_is_bounded_and_positive(results in prop::collection::vec(any::<bool>(), 1..40), interval in 1u32..10_000) {
            let mut schedule = Schedule::new(timing(interval, 50));
            for passed in results {
                let wait = schedule.observe(passed, MS * 60);
                prop_assert!(wait > Duration::ZERO && wait <= MS * interval * MAX_STRETCH);
                prop_assert_eq!(passed, schedule.status() == Status::Passing);
            }
        }
    }
}
