//! What probes of one node have shown. No I/O, and time is given.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use atoll_model::reach::Path;

/// Between two questions to one node.
pub const EVERY: Duration = Duration::from_millis(500);
/// Questions that loss is judged by: the last ten seconds.
const WINDOW: usize = 20;
/// A question without an answer for so long is lost: longer than the longest way on earth and back.
const PATIENCE: Duration = Duration::from_secs(1);
/// Without an answer for so long a node is out of reach: four questions. Two or three may be lost on a bad
/// way that still serves. Half a second later at most it is told, which makes less than three seconds.
const SILENCE: Duration = Duration::from_millis(2_200);
/// Answers one after another that bring a node back.
const RETURN: u32 = 2;

struct Question {
    number: u64,
    at: Instant,
    answered: bool,
}

/// One node's record. Nothing is known at first, so it is out of reach.
#[derive(Default)]
pub struct Track {
    asked: VecDeque<Question>,
    round_trip: Option<Duration>,
    /// Answers since the last question that was lost.
    in_a_row: u32,
    heard: Option<Instant>,
    reachable: bool,
}

impl Track {
    /// A question leaves now.
    pub fn ask(&mut self, number: u64, now: Instant) {
        if self.asked.len() == WINDOW {
            self.asked.pop_front();
        }
        self.asked.push_back(Question { number, at: now, answered: false });
    }

    /// An answer has come; one that was not asked for, or comes twice, is nothing.
    pub fn answer(&mut self, number: u64, now: Instant) {
        let Some(question) = self.asked.iter_mut().find(|question| question.number == number && !question.answered)
        else {
            return;
        };
        question.answered = true;
        let took = now.saturating_duration_since(question.at);
        // As TCP smooths: an eighth of each.
        self.round_trip = Some(self.round_trip.map_or(took, |before| (before * 7 + took) / 8));
        self.heard = Some(now);
        self.in_a_row += 1;
        self.reachable |= self.in_a_row >= RETURN;
    }

    /// What is known at this time.
    pub fn path(&mut self, now: Instant) -> Path {
        if self.heard.is_none_or(|heard| now.saturating_duration_since(heard) >= SILENCE) {
            self.reachable = false;
        }
        let due = |question: &&Question| question.answered || now.saturating_duration_since(question.at) >= PATIENCE;
        let (lost, judged) = self
            .asked
            .iter()
            .filter(due)
            .fold((0_u8, 0_u8), |(lost, judged), question| (lost + u8::from(!question.answered), judged + 1));
        if !self.reachable && self.asked.iter().rfind(due).is_some_and(|last| !last.answered) {
            self.in_a_row = 0;
        }
        let loss = if judged == 0 { 0.0 } else { f32::from(lost) / f32::from(judged) };
        Path { round_trip: self.round_trip.unwrap_or_default(), loss, reachable: self.reachable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(40);

    /// Asks as the prober does; `answered` says of which questions an answer comes. The path at the end.
    fn run(track: &mut Track, now: &mut Instant, answered: impl IntoIterator<Item = bool>) -> Path {
        for answered in answered {
            let number = track.asked.back().map_or(0, |last| last.number + 1);
            track.ask(number, *now);
            if answered {
                track.answer(number, *now + TRIP);
            }
            *now += EVERY;
            track.path(*now);
        }
        track.path(*now)
    }

    #[test]
    fn a_node_is_within_reach_after_two_answers_and_out_of_it_after_four_questions_without() {
        let (mut track, mut now) = (Track::default(), Instant::now());
        assert!(!run(&mut track, &mut now, [true]).reachable);
        assert!(run(&mut track, &mut now, [true]).reachable);
        assert!(run(&mut track, &mut now, [false; 3]).reachable);
        assert!(!run(&mut track, &mut now, [false]).reachable);
        assert!(!run(&mut track, &mut now, [true]).reachable);
        assert!(run(&mut track, &mut now, [true]).reachable);
    }

    #[test]
    fn a_bad_way_is_a_way_and_its_loss_is_told() {
        let (mut track, mut now) = (Track::default(), Instant::now());
        let path = run(&mut track, &mut now, (0..60).map(|number| number % 4 != 0));
        assert!(path.reachable);
        assert!((0.2..0.3).contains(&path.loss), "{}", path.loss);
        let path = run(&mut track, &mut now, [true; 30]);
        assert_eq!((path.loss, path.round_trip), (0.0, TRIP));
    }

    #[test]
    fn a_round_trip_follows_the_way_within_seconds() {
        let (mut track, mut now) = (Track::default(), Instant::now());
        run(&mut track, &mut now, [true; 10]);
        for number in 100..120 {
            track.ask(number, now);
            track.answer(number, now + 4 * TRIP);
            now += EVERY;
        }
        let path = track.path(now);
        assert!(path.round_trip > 3 * TRIP, "{path:?}");
    }

    #[test]
    fn answers_that_nobody_asked_for_are_nothing() {
        let (mut track, now) = (Track::default(), Instant::now());
        track.ask(1, now);
        for number in [0, 2, 3, 4, 5] {
            track.answer(number, now);
        }
        assert!(!track.path(now).reachable);
        track.answer(1, now + TRIP);
        track.answer(1, now + TRIP);
        assert!(!track.path(now + TRIP).reachable, "one answer, told twice");
    }
}
