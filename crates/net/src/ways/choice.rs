//! Which way a pair of servers takes: its own, or over a third one. A pure state machine; time is given.
//!
//! Leaving the direct way takes a clear gain, unless it is silent; returning takes a direct way that is about
//! as good for some time, and for longer each time it does not last. A way that carries no packets although
//! it was measured is not trusted for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_mesh::signal::Id;

/// What is measured of a way, in one direction and back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Quality {
    pub round_trip: Duration,
    /// 0 to 1.
    pub loss: f32,
}

impl Quality {
    /// One way after the other.
    pub fn then(self, next: Self) -> Self {
        let loss = 1.0 - (1.0 - self.loss) * (1.0 - next.loss);
        Self { round_trip: self.round_trip + next.round_trip, loss }
    }

    /// What it costs those who use it, in seconds: a hundredth of loss is as bad as ten milliseconds.
    fn cost(self) -> f64 {
        self.round_trip.as_secs_f64() + f64::from(self.loss)
    }

    /// Worth the other one's trouble, and not only by chance.
    fn is_clearly_better_than(self, other: Self) -> bool {
        self.cost() + CLEARLY_S <= other.cost() && self.cost() <= other.cost() * CLEARLY
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Standing {
    /// It has not been asked for long enough.
    Unknown,
    Silent,
    Answers(Quality),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    Direct,
    Over(Id),
}

/// Why a way is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It is the direct one, and as good as others.
    Usual,
    /// The direct one does not answer.
    Silent,
    /// The direct one answers, but carried nothing.
    Fails,
    Loss,
    Slow,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usual => "usual",
            Self::Silent => "the direct way is silent",
            Self::Fails => "the direct way carries nothing",
            Self::Loss => "the direct way loses much",
            Self::Slow => "the direct way is slow",
        }
    }
}

/// What is known at one moment.
pub struct Seen<'a> {
    pub direct: Standing,
    /// The whole way over each server that reaches both.
    pub over: &'a BTreeMap<Id, Quality>,
    /// What is sent the present way does not arrive.
    pub fails: bool,
}

/// A relay must save this much, in seconds, ...
const CLEARLY_S: f64 = 0.040;
/// ... and cost this part at most.
const CLEARLY: f64 = 0.75;
/// The direct way may be this much worse than a relay, in seconds, to be returned to.
const ABOUT_S: f64 = 0.010;
/// How long a better way must be better.
const LEAVE_AFTER: Duration = Duration::from_millis(300);
const CHANGE_AFTER: Duration = Duration::from_secs(2);
const RETURN_AFTER: Duration = Duration::from_secs(1);
/// A return that lasts for less makes the next one take twice as long, ...
const LASTING: Duration = Duration::from_secs(10);
/// ... but not longer than this.
const MOST_PATIENCE: Duration = Duration::from_secs(120);
/// A way has this long to carry its first packet, and is then left alone for this long, twice as long each
/// time.
const GRACE: Duration = Duration::from_secs(3);
const DISTRUST: Duration = Duration::from_secs(10);
const MOST_DISTRUST: Duration = Duration::from_secs(300);

/// A way that failed.
struct Distrust {
    until: Instant,
    /// How long it is distrusted if it fails again.
    next: Duration,
}

/// A pair's way, and what it takes to change it.
pub struct Choice {
    way: Way,
    reason: Reason,
    since: Instant,
    /// The last attempt to make this way carry.
    tried: Instant,
    attempts: u32,
    /// A better way, and since when it is.
    better: Option<(Way, Instant)>,
    return_after: Duration,
    has_returned: bool,
    distrusted: BTreeMap<Way, Distrust>,
}

impl Choice {
    /// Everybody begins with the direct way.
    pub fn new(now: Instant) -> Self {
        Self {
            way: Way::Direct,
            reason: Reason::Usual,
            since: now,
            tried: now,
            attempts: 0,
            better: None,
            return_after: RETURN_AFTER,
            has_returned: false,
            distrusted: BTreeMap::new(),
        }
    }

    pub fn way(&self) -> Way {
        self.way
    }

    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// When this way was taken.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Grows with each change, and with each new attempt at the same way.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Looks at what is known now, and takes another way if that is to be.
    pub fn decide(&mut self, seen: &Seen<'_>, now: Instant) {
        let fails = seen.fails && now.saturating_duration_since(self.tried) >= GRACE;
        if fails {
            self.distrust(now);
        }
        let Some((to, reason, after)) = self.better_way(seen, now) else {
            self.better = None;
            if fails {
                // There is no other: this one once more, from its beginning.
                self.distrusted.remove(&self.way);
                self.attempt(now);
            }
            return;
        };
        let since = match self.better {
            Some((better, since)) if better == to => since,
            _ => now,
        };
        self.better = Some((to, since));
        if now.saturating_duration_since(since) >= after {
            self.take(to, reason, now);
        }
    }

    fn attempt(&mut self, now: Instant) {
        self.tried = now;
        self.attempts = self.attempts.wrapping_add(1);
    }

    fn take(&mut self, to: Way, reason: Reason, now: Instant) {
        if self.way == Way::Direct {
            let brief = now.saturating_duration_since(self.since) < LASTING;
            let longer = (self.return_after * 2).min(MOST_PATIENCE);
            self.return_after = if self.has_returned && brief { longer } else { RETURN_AFTER };
        }
        self.has_returned |= to == Way::Direct;
        (self.way, self.reason, self.since, self.better) = (to, reason, now, None);
        self.attempt(now);
    }

    fn distrust(&mut self, now: Instant) {
        let known = self.distrusted.get(&self.way);
        let lasts = known.map_or(DISTRUST, |distrust| distrust.next);
        let next = (lasts * 2).min(MOST_DISTRUST);
        self.distrusted.insert(self.way, Distrust { until: now + lasts, next });
        // Long ago it may have been another network.
        self.distrusted.retain(|_, distrust| now.saturating_duration_since(distrust.until) < MOST_DISTRUST);
    }

    fn is_trusted(&self, way: Way, now: Instant) -> bool {
        self.distrusted.get(&way).is_none_or(|distrust| distrust.until <= now)
    }

    /// Where to go instead, why, and after how long.
    fn better_way(&self, seen: &Seen<'_>, now: Instant) -> Option<(Way, Reason, Duration)> {
        let over = seen.over.iter().filter(|(id, _)| self.is_trusted(Way::Over(**id), now));
        let best = over.min_by(|(_, one), (_, other)| one.cost().total_cmp(&other.cost()));
        let best = best.map(|(id, quality)| (Way::Over(*id), *quality));
        let direct = match seen.direct {
            Standing::Answers(_) if !self.is_trusted(Way::Direct, now) => Err(Reason::Fails),
            Standing::Answers(quality) => Ok(Some(quality)),
            Standing::Silent => Err(Reason::Silent),
            Standing::Unknown => Ok(None),
        };
        match self.way {
            Way::Direct => match (direct, best?) {
                (Err(reason), (to, _)) => Some((to, reason, Duration::ZERO)),
                (Ok(direct), (to, quality)) => {
                    let direct = direct.filter(|direct| quality.is_clearly_better_than(*direct))?;
                    let reason = if f64::from(direct.loss) >= CLEARLY_S { Reason::Loss } else { Reason::Slow };
                    Some((to, reason, LEAVE_AFTER))
                }
            },
            Way::Over(id) => {
                let present = seen.over.get(&id).filter(|_| self.is_trusted(self.way, now));
                match (present, direct, best) {
                    (Some(present), Ok(Some(direct)), _) if direct.cost() <= present.cost() + ABOUT_S => {
                        Some((Way::Direct, Reason::Usual, self.return_after))
                    }
                    (Some(present), _, Some((to, quality))) if quality.is_clearly_better_than(*present) => {
                        Some((to, self.reason, CHANGE_AFTER))
                    }
                    (Some(_), ..) => None,
                    (None, Ok(Some(_)), _) => Some((Way::Direct, Reason::Usual, Duration::ZERO)),
                    (None, _, Some((to, _))) => Some((to, self.reason, Duration::ZERO)),
                    // Nobody is known to reach it: whoever looks for it looks at its own address.
                    (None, _, None) => Some((Way::Direct, Reason::Usual, CHANGE_AFTER)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
