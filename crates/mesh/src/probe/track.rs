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

/// One node's record.
#[derive(Default)]
pub struct Track {
    /// When the first question left.
    began: Option<Instant>,
    asked: VecDeque<Question>,
    round_trip: Option<Duration>,
    /// Answers since the last question that was lost.
    in_a_row: u32,
    heard: Option<Instant>,
    /// `None` until it was judged once.
    reachable: Option<bool>,
}

impl Track {
    /// A question leaves now.
    pub fn ask(&mut self, number: u64, now: Instant) {
        self.began.get_or_insert(now);
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
        if self.in_a_row >= RETURN {
            self.reachable = Some(true);
        }
    }

    /// What is known at this time: nothing before enough answers have come or stayed away. A process that has
    /// just begun must not take all others for lost.
    pub fn path(&mut self, now: Instant) -> Option<Path> {
        let silent_since = self.heard.or(self.began)?;
        if now.saturating_duration_since(silent_since) >= SILENCE {
            self.reachable = Some(false);
        }
        let due = |question: &&Question| question.answered || now.saturating_duration_since(question.at) >= PATIENCE;
        let (lost, judged) = self
            .asked
            .iter()
            .filter(due)
            .fold((0_u8, 0_u8), |(lost, judged), question| (lost + u8::from(!question.answered), judged + 1));
        if self.reachable != Some(true) && self.asked.iter().rfind(due).is_some_and(|last| !last.answered) {
            self.in_a_row = 0;
        }
        let loss = if judged == 0 { 0.0 } else { f32::from(lost) / f32::from(judged) };
        Some(Path { round_trip: self.round_trip.unwrap_or_default(), loss, reachable: self.reachable? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(40);

    /// Asks as the prober does; `answered` says of which questions an answer comes. The path at the end.
    fn run(track: &mut Track, now: &mut Instant, answered: impl IntoIterator<Item = bool>) -> Option<Path> {
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

    fn is_reachable(path: Option<Path>) -> Option<bool> {
        path.map(|path| path.reachable)
    }

    #[test]
    fn a_node_is_within_reach_after_two_answers_and_out_of_it_after_four_questions_without() {
        let (mut track, mut now) = (Track::default(), Instant::now());
        for (answered, reachable) in
            [(&[true, true][..], true), (&[false; 3], true), (&[false], false), (&[true], false), (&[true], true)]
        {
            let path = run(&mut track, &mut now, answered.iter().copied());
            assert_eq!(is_reachable(path), Some(reachable), "after {answered:?}");
        }
    }

    #[test]
    fn nothing_is_said_of_a_node_before_it_had_time_to_answer() {
        let (mut track, mut now) = (Track::default(), Instant::now());
        assert_eq!(track.path(now), None);
        assert_eq!(run(&mut track, &mut now, [true]), None, "one answer is none yet");
        let (mut track, mut now) = (Track::default(), Instant::now());
        assert_eq!(run(&mut track, &mut now, [false; 4]), None);
        assert_eq!(is_reachable(run(&mut track, &mut now, [false])), Some(false));
    }

    #[test]
    fn a_bad_way_is_a_way_and_its_loss_is_told() {
        let (mut track, mut now) = (Track::default(), Instant::now());
        let path = run(&mut track, &mut now, (0..60).map(|number| number % 4 != 0)).unwrap();
        assert!(path.reachable);
        assert!((0.2..0.3).contains(&path.loss), "{}", path.loss);
        let path = run(&mut track, &mut now, [true; 30]).unwrap();
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
        let path = track.path(now).unwrap();
        assert!(path.round_trip > 3 * TRIP, "{path:?}");
    }

    #[test]
    fn answers_that_nobody_asked_for_are_nothing() {
        let (mut track, now) = (Track::default(), Instant::now());
        track.ask(1, now);
        for number in [0, 2, 3, 4, 5] {
            track.answer(number, now);
        }
        assert_eq!(track.path(now), None);
        track.answer(1, now + TRIP);
        track.answer(1, now + TRIP);
        assert_eq!(track.path(now + TRIP), None, "one answer, told twice");
    }
}
