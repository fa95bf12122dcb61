use proptest::prelude::*;

use super::*;

const STEP: Duration = Duration::from_millis(100);
const R: Id = Id(*b"relay--1");
const S: Id = Id(*b"relay--2");

fn quality(round_trip_ms: u64, loss: f32) -> Quality {
    Quality { round_trip: Duration::from_millis(round_trip_ms), loss }
}

fn answers(round_trip_ms: u64) -> Standing {
    Standing::Answers(quality(round_trip_ms, 0.0))
}

/// A pair that looks at the same for a time.
struct Pair {
    choice: Choice,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        Self { choice: Choice::new(now), now }
    }

    /// The way after so long; how long after the beginning it was taken.
    fn sees(&mut self, direct: Standing, over: &[(Id, Quality)], fails: bool, lasting_ms: u64) -> (Way, Duration) {
        let (began, over) = (self.now, over.iter().copied().collect());
        while self.now < began + Duration::from_millis(lasting_ms) {
            self.choice.decide(&Seen { direct, over: &over, fails }, self.now);
            self.now += STEP;
        }
        (self.choice.way(), self.choice.since().saturating_duration_since(began))
    }

    fn way(&mut self, direct: Standing, over: &[(Id, Quality)], lasting_ms: u64) -> Way {
        self.sees(direct, over, false, lasting_ms).0
    }
}

#[test]
fn a_silent_way_is_left_at_once_and_a_bad_one_soon() {
    let over = [(R, quality(30, 0.0))];
    for (direct, limit_ms, reason) in [
        (Standing::Silent, 0, Reason::Silent),
        (Standing::Answers(quality(10, 0.10)), 500, Reason::Loss),
        (answers(110), 500, Reason::Slow),
    ] {
        let mut pair = Pair::new();
        assert_eq!(pair.way(answers(10), &over, 5_000), Way::Direct);
        let (way, after) = pair.sees(direct, &over, false, 2_000);
        assert_eq!((way, pair.choice.reason()), (Way::Over(R), reason));
        assert!(after <= Duration::from_millis(limit_ms), "{after:?}");
        let (way, after) = pair.sees(answers(10), &over, false, 5_000);
        assert_eq!((way, pair.choice.reason()), (Way::Direct, Reason::Usual));
        assert!(after >= RETURN_AFTER && after < 2 * RETURN_AFTER, "{after:?}");
    }
}

#[test]
fn a_little_gain_is_not_worth_anothers_trouble() {
    for (direct, relay) in [(50, 30), (400, 350), (20, 100)] {
        assert_eq!(Pair::new().way(answers(direct), &[(R, quality(relay, 0.0))], 60_000), Way::Direct);
    }
    assert_eq!(Pair::new().way(Standing::Unknown, &[(R, quality(1, 0.0))], 60_000), Way::Direct);
    assert_eq!(Pair::new().way(Standing::Silent, &[], 60_000), Way::Direct);
}

#[test]
fn a_relay_that_is_gone_gives_way_to_another_one_or_to_the_direct_way() {
    let mut pair = Pair::new();
    let (r, s) = ((R, quality(30, 0.0)), (S, quality(60, 0.0)));
    assert_eq!(pair.way(Standing::Silent, &[r, s], 1_000), Way::Over(R));
    assert_eq!(pair.sees(Standing::Silent, &[s], false, 1_000), (Way::Over(S), Duration::ZERO));
    // Better again, and for some time.
    assert_eq!(pair.way(Standing::Silent, &[(R, quality(30, 0.0)), (S, quality(200, 0.0))], 1_000), Way::Over(S));
    assert_eq!(pair.way(Standing::Silent, &[(R, quality(30, 0.0)), (S, quality(200, 0.0))], 3_000), Way::Over(R));
    assert_eq!(pair.sees(answers(500), &[], false, 1_000), (Way::Direct, Duration::ZERO));
}

#[test]
fn a_link_that_comes_and_goes_is_returned_to_ever_later() {
    let over = [(R, quality(30, 0.0))];
    let (mut pair, mut changes) = (Pair::new(), 0);
    for _ in 0..60 {
        for direct in [Standing::Silent, answers(10)] {
            let before = pair.choice.attempts();
            pair.way(direct, &over, 5_000);
            changes += pair.choice.attempts() - before;
        }
    }
    assert!(changes <= 8, "{changes} changes in ten minutes");
    // After some calm all is forgiven.
    assert_eq!(pair.way(answers(10), &over, 200_000), Way::Direct);
    pair.way(Standing::Silent, &over, 5_000);
    assert_eq!(pair.way(answers(10), &over, 2_000), Way::Direct);
}

#[test]
fn a_way_that_answers_but_carries_nothing_is_left_alone_for_longer_each_time() {
    let over = [(R, quality(30, 0.0))];
    let mut pair = Pair::new();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let (way, after) = pair.sees(answers(10), &over, true, 3_200);
        assert_eq!((way, pair.choice.reason()), (Way::Over(R), Reason::Fails));
        assert!(after <= GRACE + STEP);
        let began = pair.now;
        while pair.way(answers(10), &over, 100) != Way::Direct {
            assert!(pair.now < began + MOST_DISTRUST);
        }
        waits.push(pair.now - began);
    }
    assert!(waits.is_sorted_by(|one, next| *next > *one + DISTRUST / 2), "{waits:?}");
    // Where there is no other it is tried again and again.
    let before = pair.choice.attempts();
    assert_eq!(pair.sees(answers(10), &[], true, 60_000).0, Way::Direct);
    assert!(pair.choice.attempts() > before + 10);
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Unknown),
        Just(Standing::Silent),
        (1..500_u64, 0.0..0.5_f32).prop_map(|(trip, loss)| Standing::Answers(quality(trip, loss))),
    ]
}

proptest! {
    /// Whatever happens: only ways that exist, no useless change, and calm once the world is calm.
    #[test]
    fn ways_exist_and_settle(
        past in proptest::collection::vec((standing(), standing(), standing(), any::<bool>(), 1..50_u64), 0..40),
        direct in standing(), r in standing(), s in standing(),
    ) {
        let over = |r: Standing, s: Standing| -> Vec<(Id, Quality)> {
            [(R, r), (S, s)]
                .into_iter()
                .filter_map(|(id, standing)| match standing { Standing::Answers(quality) => Some((id, quality)), _ => None })
                .collect()
        };
        let mut pair = Pair::new();
        for (direct, r, s, fails, steps) in past {
            let over = over(r, s);
            let (way, _) = pair.sees(direct, &over, fails, steps * 100 + 2_100);
            let exists = match way { Way::Direct => true, Way::Over(id) => over.iter().any(|(relay, _)| *relay == id) };
            prop_assert!(exists, "{way:?} of {over:?}");
        }
        let over = over(r, s);
        pair.way(direct, &over, 700_000);
        let settled = pair.choice.attempts();
        pair.way(direct, &over, 600_000);
        prop_assert_eq!(pair.choice.attempts(), settled);
        match (direct, pair.choice.way()) {
            (Standing::Silent, Way::Direct) => prop_assert!(over.is_empty()),
            (Standing::Answers(direct), Way::Direct) => {
                prop_assert!(!over.iter().any(|(_, relay)| relay.is_clearly_better_than(direct)));
            }
            (Standing::Answers(direct), Way::Over(id)) => {
                let present = over.iter().find(|(relay, _)| *relay == id).map(|(_, quality)| *quality);
                prop_assert!(present.is_some_and(|present| direct.cost() > present.cost() + ABOUT_S));
            }
            _ => {}
        }
    }
}
