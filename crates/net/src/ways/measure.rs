//! What questions beside the tunnel have shown of the direct way to one server. No I/O, and time is given.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::choice::{Quality, Standing};

/// Loss is judged by the questions of this time.
const WINDOW: Duration = Duration::from_secs(2);
/// And the round trip by those of this: it must follow a change at once, and outliers do not move a median.
const RECENT: Duration = Duration::from_secs(1);
/// The least that an answer may take before its question counts as lost.
const PATIENCE: Duration = Duration::from_millis(300);
/// Lost questions one after another, over a time of [`SILENCE`], after which a way is silent.
const UNHEARD: usize = 4;
/// Longer than the pauses of a busy host, shorter than it takes names to lose the server.
const SILENCE: Duration = Duration::from_millis(1_000);
/// Fewer lost ones in the window are chance.
const LOST: usize = 2;
/// Kept at most, of the most frequent questions.
const MOST: usize = 256;
/// How much slower an answer must be than is usual to be suspicious.
const SLOWER: f32 = 1.3;
const SLOWER_BY: Duration = Duration::from_millis(15);

struct Question {
    number: u64,
    at: Instant,
    took: Option<Duration>,
}

/// One way's record.
#[derive(Default)]
pub struct Measure {
    asked: VecDeque<Question>,
    heard: Option<Instant>,
    usual: Option<Duration>,
}

impl Measure {
    /// A question leaves now.
    pub fn ask(&mut self, number: u64, now: Instant) {
        let old = |question: &Question| now.saturating_duration_since(question.at) > 2 * WINDOW;
        while self.asked.len() >= MOST || self.asked.front().is_some_and(old) {
            self.asked.pop_front();
        }
        self.asked.push_back(Question { number, at: now, took: None });
    }

    /// An answer has come; says whether it is one, for the first time. It may be late.
    pub fn answer(&mut self, number: u64, now: Instant) -> bool {
        let unanswered = |question: &&mut Question| question.number == number && question.took.is_none();
        let Some(question) = self.asked.iter_mut().rev().find(unanswered) else { return false };
        let took = now.saturating_duration_since(question.at);
        question.took = Some(took);
        self.heard = Some(now);
        self.usual = Some(self.usual.map_or(took, |usual| usual.min(took)));
        true
    }

    /// Since an answer came.
    pub fn silent(&self, now: Instant) -> Option<Duration> {
        self.heard.map(|heard| now.saturating_duration_since(heard))
    }

    pub fn standing(&self, now: Instant) -> Standing {
        let patience = self.patience(now);
        let age = |question: &Question| now.saturating_duration_since(question.at);
        let mut unheard = self.asked.iter().rev().skip_while(|question| age(question) < patience);
        let unheard: Vec<_> = unheard.by_ref().take_while(|question| question.took.is_none()).collect();
        if unheard.len() >= UNHEARD && unheard.last().is_some_and(|first| age(first) >= SILENCE) {
            // One answer among the latest, which are not due yet, is enough to be heard of again.
            let latest = self.asked.iter().rev().take_while(|question| age(question) < patience);
            if latest.filter(|question| question.took.is_some()).count() == 0 {
                return Standing::Silent;
            }
        }
        match self.round_trip(now) {
            Some(round_trip) if self.heard.is_some() => Standing::Answers(Quality { round_trip, loss: self.loss(now) }),
            _ => Standing::Unknown,
        }
    }

    /// Whether it should be asked more often for a while: something is not as usual.
    pub fn is_suspicious(&self, now: Instant) -> bool {
        let patience = self.patience(now);
        self.asked.iter().any(|question| {
            let age = now.saturating_duration_since(question.at);
            age < WINDOW + patience && question.took.map_or(age >= patience, |took| self.is_slow(took))
        })
    }

    fn is_slow(&self, took: Duration) -> bool {
        self.usual.is_some_and(|usual| took > usual.mul_f32(SLOWER) + SLOWER_BY)
    }

    /// How long an answer may take.
    pub fn patience(&self, now: Instant) -> Duration {
        self.round_trip(now).map_or(PATIENCE, |usual| PATIENCE.max(2 * usual + PATIENCE / 3))
    }

    /// The median of late; of the last answer, if there was none of late.
    fn round_trip(&self, now: Instant) -> Option<Duration> {
        let recent = |question: &&Question| now.saturating_duration_since(question.at) < RECENT;
        let mut took: Vec<_> =
            self.asked.iter().rev().take_while(recent).filter_map(|question| question.took).collect();
        if took.is_empty() {
            return self.asked.iter().rev().find_map(|question| question.took).or(self.usual);
        }
        let middle = took.len() / 2;
        Some(*took.select_nth_unstable(middle).1)
    }

    fn loss(&self, now: Instant) -> f32 {
        let patience = self.patience(now);
        let judged = self.asked.iter().filter(|question| {
            let age = now.saturating_duration_since(question.at);
            age < WINDOW + patience && (age >= patience || question.took.is_some())
        });
        let (lost, all) =
            judged.fold((0, 0), |(lost, all), question| (lost + usize::from(question.took.is_none()), all + 1));
        if lost < LOST { 0.0 } else { lost as f32 / all as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(100);
    const TRIP: Duration = Duration::from_millis(20);

    /// Asks for so long; an answer comes after what `trip` says of each question, if at all.
    fn run(measure: &mut Measure, now: &mut Instant, times: u32, trip: impl Fn(u32) -> Option<Duration>) -> Standing {
        let mut due: Vec<(Instant, u64)> = Vec::new();
        for count in 0..times {
            let number: u64 = rand_free(now, count);
            measure.ask(number, *now);
            due.extend(trip(count).map(|trip| (*now + trip, number)));
            *now += EVERY;
            due.retain(|(at, number)| {
                let passed = *at <= *now;
                if passed {
                    measure.answer(*number, *at);
                }
                !passed
            });
        }
        measure.standing(*now)
    }

    /// A number of its own for each question of a test.
    fn rand_free(now: &Instant, count: u32) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (now, count).hash(&mut hasher);
        hasher.finish()
    }

    fn quality(standing: Standing) -> Quality {
        match standing {
            Standing::Answers(quality) => quality,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_way_is_unknown_then_well_then_silent_then_well() {
        let (mut measure, mut now) = (Measure::default(), Instant::now());
        assert_eq!(measure.standing(now), Standing::Unknown);
        let well = quality(run(&mut measure, &mut now, 30, |_| Some(TRIP)));
        assert_eq!(well, Quality { round_trip: TRIP, loss: 0.0 });
        assert!(!measure.is_suspicious(now));
        assert_ne!(run(&mut measure, &mut now, 8, |_| None), Standing::Silent);
        assert!(measure.is_suspicious(now));
        assert_eq!(run(&mut measure, &mut now, 6, |_| None), Standing::Silent);
        assert!(quality(run(&mut measure, &mut now, 10, |_| Some(TRIP))).loss > 0.2);
        assert_eq!(quality(run(&mut measure, &mut now, 20, |_| Some(TRIP))).loss, 0.0);
    }

    #[test]
    fn a_way_that_never_answers_is_silent() {
        let (mut measure, mut now) = (Measure::default(), Instant::now());
        assert_eq!(run(&mut measure, &mut now, 5, |_| None), Standing::Unknown);
        assert_eq!(run(&mut measure, &mut now, 8, |_| None), Standing::Silent);
    }

    #[test]
    fn who_did_not_ask_does_not_find_the_way_silent() {
        let (mut measure, mut now) = (Measure::default(), Instant::now());
        run(&mut measure, &mut now, 30, |_| Some(TRIP));
        now += Duration::from_secs(5);
        assert!(matches!(measure.standing(now), Standing::Answers(_)));
    }

    #[test]
    fn a_slower_way_shows_within_a_second_and_so_does_a_well_one() {
        let (mut measure, mut now) = (Measure::default(), Instant::now());
        run(&mut measure, &mut now, 30, |_| Some(TRIP));
        let slow = 11 * TRIP;
        let seen = quality(run(&mut measure, &mut now, 10, |_| Some(slow)));
        assert_eq!(seen, Quality { round_trip: slow, loss: 0.0 });
        assert!(measure.is_suspicious(now));
        assert_eq!(quality(run(&mut measure, &mut now, 10, |_| Some(TRIP))).round_trip, TRIP);
    }

    #[test]
    fn one_lost_question_is_chance_and_many_are_not() {
        let (mut measure, mut now) = (Measure::default(), Instant::now());
        let one = quality(run(&mut measure, &mut now, 30, |count| (count != 20).then_some(TRIP)));
        assert_eq!(one.loss, 0.0);
        assert!(measure.is_suspicious(now));
        let many = quality(run(&mut measure, &mut now, 60, |count| (count % 10 != 0).then_some(TRIP)));
        assert!((0.05..0.15).contains(&many.loss), "{many:?}");
    }

    #[test]
    fn answers_that_nobody_asked_for_are_nothing() {
        let (mut measure, now) = (Measure::default(), Instant::now());
        measure.ask(1, now);
        assert!(!measure.answer(2, now));
        assert!(measure.answer(1, now + TRIP));
        assert!(!measure.answer(1, now + TRIP));
    }
}
