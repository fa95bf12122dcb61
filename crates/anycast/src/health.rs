//! Whether the local edge serves, judged by probes: the states, and how flapping is damped. Pure; times are
//! durations of one monotonic clock.
//!
//! ```text
//!            two misses in a row
//!   Serves ───────────────────────► Down ◄──── a miss ────┐
//!      ▲                              │ an answer         │
//!      └──── answered for `hold` ── Returns ──────────────┘
//! ```
//!
//! An edge that waits for a processor is busy, not dead, and has longer: withdrawing it is load's affair.
//!
//! Leaving is quick and returning is slow: the more often the edge left lately, the longer it must answer
//! before it is announced again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long an edge that was well must answer before it is announced.
pub const SHORTEST_HOLD: Duration = Duration::from_secs(1);
/// The longest that a flapping edge is kept away.
pub const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// An edge that served this long is taken to be well again.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// Misses in a row that count as death.
pub const MISSES: u32 = 2;
/// Of an edge that only waits for a processor: about two seconds.
pub const STARVED_MISSES: u32 = 50;

/// What a probe showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    Answered,
    Missed,
    /// No answer in time, but the edge would work if it were given a processor.
    Starved,
}

/// How the edge is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Phase {
    Serves { since: Duration },
    Down { since: Duration },
    Returns { since: Duration },
}

/// The judgement of one edge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    phase: Phase,
    misses: u32,
    starved: u32,
    hold: Duration,
}

impl Health {
    /// An edge of which nothing is known: it must show that it serves.
    pub fn unknown(now: Duration) -> Self {
        Self { phase: Phase::Down { since: now }, misses: 0, starved: 0, hold: SHORTEST_HOLD }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn serves(&self) -> bool {
        matches!(self.phase, Phase::Serves { .. })
    }

    /// How long the edge must answer before it is announced.
    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// Judges a probe.
    pub fn probed(&mut self, sign: Sign, now: Duration) {
        let answered = sign == Sign::Answered;
        match sign {
            Sign::Answered => (self.misses, self.starved) = (0, 0),
            Sign::Missed => self.misses = self.misses.saturating_add(1),
            Sign::Starved => self.starved = self.starved.saturating_add(1),
        }
        self.phase = match self.phase {
            Phase::Serves { since } if self.misses >= MISSES || self.starved >= STARVED_MISSES => {
                let well = now.saturating_sub(since) >= FORGIVEN_AFTER;
                self.hold = if well { SHORTEST_HOLD } else { (self.hold * 2).min(LONGEST_HOLD) };
                Phase::Down { since: now }
            }
            Phase::Down { .. } if answered => Phase::Returns { since: now },
            Phase::Returns { .. } if !answered => Phase::Down { since: now },
            Phase::Returns { since } if now.saturating_sub(since) >= self.hold => Phase::Serves { since: now },
            same => same,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(40);

    /// An edge that has just begun to serve, and the time.
    fn serving() -> (Health, Duration) {
        let mut now = Duration::from_secs(1000);
        let mut health = Health::unknown(now);
        while !health.serves() {
            now += STEP;
            health.probed(Sign::Answered, now);
        }
        (health, now)
    }

    #[test]
    fn two_misses_in_a_row_are_death_and_one_is_not() {
        let (mut health, now) = serving();
        for sign in [Sign::Missed, Sign::Answered, Sign::Missed, Sign::Starved, Sign::Answered] {
            health.probed(sign, now);
            assert!(health.serves());
        }
        health.probed(Sign::Missed, now);
        health.probed(Sign::Missed, now);
        assert_eq!(health.phase(), Phase::Down { since: now });
    }

    #[test]
    fn each_flap_doubles_the_wait_until_the_edge_was_well() {
        let (mut health, mut now) = serving();
        let mut waits = Vec::new();
        for _ in 0..10 {
            health.probed(Sign::Missed, now);
            health.probed(Sign::Missed, now);
            let left = now;
            while !health.serves() {
                now += STEP;
                health.probed(Sign::Answered, now);
            }
            waits.push((now - left).as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        now += FORGIVEN_AFTER;
        health.probed(Sign::Missed, now);
        health.probed(Sign::Missed, now);
        assert_eq!(health.hold(), SHORTEST_HOLD);
    }

    #[test]
    fn a_starved_edge_has_longer_but_not_for_ever() {
        let (mut health, now) = serving();
        for _ in 1..STARVED_MISSES {
            health.probed(Sign::Starved, now);
        }
        assert!(health.serves());
        health.probed(Sign::Starved, now);
        assert!(!health.serves());
    }

    proptest! {
        #[test]
        fn it_serves_only_after_answering_for_the_hold(
            probes in prop::collection::vec((prop::bool::weighted(0.97), 1u64..200), 1..2_000),
        ) {
            let mut now = Duration::ZERO;
            let mut health = Health::unknown(now);
            let (mut answered_since, mut in_a_row) = (None, 0);
            for (answered, gap) in probes {
                let sign = if answered { Sign::Answered } else { Sign::Missed };
                now += Duration::from_millis(gap);
                let (before, hold) = (health.serves(), health.hold());
                health.probed(sign, now);
                in_a_row = if answered { 0 } else { in_a_row + 1 };
                answered_since = answered.then(|| answered_since.unwrap_or(now));
                if health.serves() && !before {
                    prop_assert!(answered_since.is_some_and(|since| now - since >= hold));
                }
                prop_assert_eq!(before && !health.serves(), before && in_a_row >= MISSES);
                prop_assert!((SHORTEST_HOLD..=LONGEST_HOLD).contains(&health.hold()));
            }
        }
    }
}
