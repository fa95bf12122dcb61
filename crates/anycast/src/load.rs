//! How busy the local edge is, judged by how long it takes to answer probes. Pure.
//!
//! Between a level and the one below lies a distance, and relief must last: else two places would send each
//! other their users back and forth.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Probes that are judged together: about a second.
const WINDOW: usize = 25;

/// How long a level must have been left before it counts as left.
const RELIEF: Duration = Duration::from_secs(5);

/// How long a place is busy before it is overloaded: that others are preferred needs time to help.
const PATIENCE: Duration = Duration::from_secs(5);

/// How busy the edge is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    #[default]
    Normal,
    /// Others should be preferred.
    Busy,
    /// It hardly serves.
    Overloaded,
}

/// From which answer time on an edge is what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Milliseconds.
    #[serde(default = "Limits::busy_default")]
    pub busy_ms: u64,
    /// Milliseconds; not above what a probe waits, or it is never reached.
    #[serde(default = "Limits::overloaded_default")]
    pub overloaded_ms: u64,
}

impl Limits {
    fn busy_default() -> u64 {
        10
    }

    fn overloaded_default() -> u64 {
        30
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { busy_ms: Self::busy_default(), overloaded_ms: Self::overloaded_default() }
    }
}

/// The judgement of one edge.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    level: Level,
    recent: VecDeque<Duration>,
    /// Since when it has been busy or worse.
    busy_since: Option<Duration>,
    /// Since when the answers have been those of a lower level.
    relieved_since: Option<Duration>,
}

impl Load {
    pub fn level(&self) -> Level {
        self.level
    }

    /// The median of the last answers; none before there were enough.
    pub fn typical(&self) -> Option<Duration> {
        if self.recent.len() < WINDOW {
            return None;
        }
        let mut sorted: Vec<Duration> = self.recent.iter().copied().collect();
        sorted.sort();
        sorted.get(WINDOW / 2).copied()
    }

    /// Judges an answer that took this long; a missed one took as long as was waited.
    pub fn answered(&mut self, took: Duration, limits: Limits, now: Duration) {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        let Some(typical) = self.typical() else { return };
        let reached = match level_at(typical, limits) {
            Level::Overloaded if !self.was_patient(now) => Level::Busy,
            reached => reached,
        };
        if reached >= self.level {
            self.rise(reached, now);
            return;
        }
        // Below a level only once well below it.
        if level_at(typical * 2, limits) >= self.level {
            self.relieved_since = None;
            return;
        }
        let since = *self.relieved_since.get_or_insert(now);
        if now.saturating_sub(since) >= RELIEF {
            self.level = reached;
            self.relieved_since = None;
            self.busy_since = self.busy_since.filter(|_| reached > Level::Normal);
        }
    }

    fn rise(&mut self, reached: Level, now: Duration) {
        self.level = reached;
        self.relieved_since = None;
        if reached > Level::Normal {
            self.busy_since.get_or_insert(now);
        }
    }

    /// Whether it has been busy long enough to be overloaded.
    fn was_patient(&self, now: Duration) -> bool {
        self.level == Level::Overloaded || self.busy_since.is_some_and(|since| now.saturating_sub(since) >= PATIENCE)
    }
}

fn level_at(typical: Duration, limits: Limits) -> Level {
    if typical >= Duration::from_millis(limits.overloaded_ms) {
        Level::Overloaded
    } else if typical >= Duration::from_millis(limits.busy_ms) {
        Level::Busy
    } else {
        Level::Normal
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(40);

    fn feed(load: &mut Load, now: &mut Duration, ms: u64, count: usize) {
        for _ in 0..count {
            *now += STEP;
            load.answered(Duration::from_millis(ms), Limits::default(), *now);
        }
    }

    #[test]
    fn slow_answers_make_it_busy_within_a_second_and_relief_takes_longer() {
        let (mut load, mut now) = (Load::default(), Duration::ZERO);
        feed(&mut load, &mut now, 1, 50);
        feed(&mut load, &mut now, 12, 13);
        assert_eq!(load.level(), Level::Busy);
        feed(&mut load, &mut now, 40, 100);
        assert_eq!(load.level(), Level::Busy);
        feed(&mut load, &mut now, 40, 26);
        assert_eq!(load.level(), Level::Overloaded);
        feed(&mut load, &mut now, 1, 100);
        assert_eq!(load.level(), Level::Overloaded);
        feed(&mut load, &mut now, 1, 60);
        assert_eq!(load.level(), Level::Normal);
    }

    #[test]
    fn a_few_slow_answers_are_no_load() {
        let (mut load, mut now) = (Load::default(), Duration::ZERO);
        feed(&mut load, &mut now, 1, 50);
        feed(&mut load, &mut now, 40, 10);
        assert_eq!(load.level(), Level::Normal);
    }

    proptest! {
        #[test]
        fn levels_fall_no_more_often_than_relief_lasts(
            answers in prop::collection::vec(0u64..45, 1..2_000),
        ) {
            let (mut load, mut now) = (Load::default(), Duration::ZERO);
            let mut last_fall: Option<Duration> = None;
            for ms in answers {
                let before = load.level();
                feed(&mut load, &mut now, ms, 1);
                if load.level() < before {
                    prop_assert!(last_fall.is_none_or(|fall| now - fall >= RELIEF));
                    last_fall = Some(now);
                }
            }
        }
    }
}
