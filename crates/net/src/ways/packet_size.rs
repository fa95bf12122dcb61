//! How large packets may be that go directly to one server. Routers need not say what they drop, so
//! datagrams of each size are sent, and who answers has got them (RFC 8899). No I/O, and time is given.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Sizes of IP packets that ways are known to end at, largest first: Ethernet, PPPoE, tunnels of all kinds, and
/// the least that carries IPv6, which every way does.
pub const SIZES: [u16; 12] = [1500, 1492, 1480, 1476, 1460, 1450, 1440, 1420, 1400, 1380, 1360, LEAST];
const LEAST: u16 = 1280;
/// So many datagrams of one size are lost by chance on no way that serves.
const TRIES: u32 = 4;
/// How often it is looked whether the size still holds.
const CHECK: Duration = Duration::from_secs(10);
/// How often it is looked whether larger ones pass by now (RFC 8899 section 5.1.1).
const RAISE: Duration = Duration::from_secs(600);

#[derive(Clone, Copy)]
enum Stage {
    Idle,
    /// All sizes that are larger than the largest answered one are tried.
    Search {
        tries: u32,
    },
    /// The size that was found is tried.
    Check {
        tries: u32,
    },
}

/// One way's packets.
pub struct PacketSize {
    /// Into [`SIZES`].
    found: Option<usize>,
    searched: Option<Instant>,
    stage: Stage,
    /// Numbers of this stage that may still be answered, and which size each had.
    asked: Vec<(NonZeroU64, usize)>,
    /// The largest size that was answered in this stage.
    answered: Option<usize>,
    due: Option<Instant>,
}

impl Default for PacketSize {
    fn default() -> Self {
        let stage = Stage::Search { tries: 0 };
        Self { found: None, searched: None, stage, asked: Vec::new(), answered: None, due: None }
    }
}

impl PacketSize {
    /// The largest packet that the way carries; none before it was found out.
    pub fn largest(&self) -> Option<u16> {
        self.found.map(|index| SIZES[index])
    }

    /// The way answers nothing now, large or small: what was found stays, and nothing is concluded.
    pub fn interrupt(&mut self) {
        self.enter(if self.found.is_some() { Stage::Check { tries: 0 } } else { Stage::Search { tries: 0 } });
        self.due = None;
    }

    /// Sizes of packets that are to be sent now, each with a number that comes back. An answer takes no longer
    /// than `patience`.
    pub fn ask(
        &mut self,
        now: Instant,
        patience: Duration,
        mut number: impl FnMut() -> Option<NonZeroU64>,
    ) -> Vec<(NonZeroU64, u16)> {
        if self.due.is_some_and(|due| now < due) {
            return Vec::new();
        }
        self.step(now);
        let sizes = match &mut self.stage {
            Stage::Idle => {
                self.due = Some(now + CHECK);
                return Vec::new();
            }
            Stage::Search { tries } => {
                *tries += 1;
                0..self.answered.unwrap_or(SIZES.len())
            }
            Stage::Check { tries } => {
                *tries += 1;
                let found = self.found.unwrap_or_default();
                found..found + 1
            }
        };
        self.due = Some(now + patience);
        let asked: Vec<_> = sizes.filter_map(|index| Some((number()?, index))).collect();
        self.asked.extend(&asked);
        asked.into_iter().map(|(number, index)| (number, SIZES[index])).collect()
    }

    /// An answer has come, perhaps to one of ours.
    pub fn answered(&mut self, number: NonZeroU64) {
        if let Some((_, index)) = self.asked.iter().find(|(asked, _)| *asked == number) {
            self.answered = Some(self.answered.map_or(*index, |best| best.min(*index)));
        }
    }

    /// What follows from the last tries.
    fn step(&mut self, now: Instant) {
        match self.stage {
            Stage::Idle => {
                let long = self.searched.is_none_or(|at| now.saturating_duration_since(at) >= RAISE);
                let may_grow = self.found != Some(0) && long;
                self.enter(if may_grow { Stage::Search { tries: 0 } } else { Stage::Check { tries: 0 } });
            }
            Stage::Search { tries } if tries >= TRIES || self.answered == Some(0) => {
                self.found = Some(self.answered.unwrap_or(SIZES.len() - 1));
                self.searched = Some(now);
                self.enter(Stage::Idle);
            }
            Stage::Check { .. } if self.answered.is_some() => self.enter(Stage::Idle),
            Stage::Check { tries } if tries >= TRIES => self.enter(Stage::Search { tries: 0 }),
            Stage::Search { .. } | Stage::Check { .. } => {}
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.asked.clear();
        self.answered = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERY: Duration = Duration::from_millis(100);
    const PATIENCE: Duration = Duration::from_millis(300);

    /// A way, and what is known of it.
    struct Way {
        size: PacketSize,
        now: Instant,
        numbers: u64,
    }

    impl Way {
        fn new() -> Self {
            Self { size: PacketSize::default(), now: Instant::now(), numbers: 0 }
        }

        /// Lets time pass; `passes` says which packets are answered. How many were sent.
        fn run(&mut self, time: Duration, mut passes: impl FnMut(u16) -> bool) -> usize {
            let (end, mut sent) = (self.now + time, 0);
            while self.now < end {
                let asked = self.size.ask(self.now, PATIENCE, || {
                    self.numbers += 1;
                    NonZeroU64::new(self.numbers)
                });
                sent += asked.len();
                for (number, size) in asked {
                    if passes(size) {
                        self.size.answered(number);
                    }
                }
                self.now += EVERY;
            }
            sent
        }
    }

    #[test]
    fn a_way_like_ethernet_is_known_at_once_and_looked_at_seldom() {
        let mut way = Way::new();
        way.run(Duration::from_millis(400), |_| true);
        assert_eq!(way.size.largest(), Some(1500));
        assert!(way.run(Duration::from_secs(3600), |_| true) <= 360);
    }

    #[test]
    fn a_way_that_becomes_narrow_is_noticed_within_seconds_and_a_wide_one_within_minutes() {
        let mut way = Way::new();
        way.run(Duration::from_secs(60), |_| true);
        way.run(Duration::from_secs(15), |size| size <= 1400);
        assert_eq!(way.size.largest(), Some(1400));
        way.run(Duration::from_secs(590), |_| true);
        assert_eq!(way.size.largest(), Some(1400), "it is not asked for all the time");
        way.run(Duration::from_secs(30), |_| true);
        assert_eq!(way.size.largest(), Some(1500));
    }

    #[test]
    fn a_way_too_narrow_for_ipv6_is_taken_for_one_that_carries_it() {
        let mut way = Way::new();
        way.run(Duration::from_secs(5), |_| false);
        assert_eq!(way.size.largest(), Some(LEAST));
    }

    #[test]
    fn silence_tells_nothing() {
        let mut way = Way::new();
        way.run(Duration::from_secs(5), |size| size <= 1460);
        for _ in 0..100 {
            way.run(Duration::from_millis(500), |_| false);
            way.size.interrupt();
        }
        assert_eq!(way.size.largest(), Some(1460));
        way.run(Duration::from_secs(5), |size| size <= 1420);
        assert_eq!(way.size.largest(), Some(1420), "another way may have another size");
    }

    #[test]
    fn answers_to_others_are_nothing() {
        let mut way = Way::new();
        way.size.ask(way.now, PATIENCE, || NonZeroU64::new(7));
        way.size.answered(NonZeroU64::MAX);
        way.run(Duration::from_secs(5), |_| false);
        assert_eq!(way.size.largest(), Some(LEAST));
    }

    proptest! {
        /// Where a tenth is lost in each direction, too.
        #[test]
        fn what_passes_is_found_and_nothing_larger(largest in 1280..=1600_u16, lost: [u8; 64]) {
            let mut way = Way::new();
            let mut turn = 0;
            way.run(Duration::from_secs(20), |size| {
                turn += 1;
                size <= largest && lost[turn % lost.len()] % 5 != 0
            });
            let found = way.size.largest().unwrap();
            prop_assert!(found <= largest);
            way.run(RAISE + CHECK * 2, |size| size <= largest);
            let best = SIZES.into_iter().find(|size| *size <= largest);
            prop_assert_eq!(way.size.largest(), best, "what was lost by chance is found later");
        }
    }
}
