//! Keeps routes of single addresses from coming and going: whoever is told of them by BGP would suppress one
//! that does (RFC 2439), for an hour and everywhere. Leaving is never delayed. The first return is neither, as a
//! deploy may cause it; each further one takes twice as long. An edge that begins anew remembers nothing: its own
//! restart is one departure more than it knows of. Pure; times are durations of one monotonic clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::health::{FORGIVEN_AFTER, LONGEST_HOLD, SHORTEST_HOLD};

/// What is remembered of addresses that were served of late.
#[derive(Default, Debug)]
pub struct Damping(BTreeMap<IpAddr, Record>);

#[derive(Default, Debug)]
struct Record {
    /// Served since; none if it is not.
    served: Option<Duration>,
    /// Announced since; none if it is not.
    announced: Option<Duration>,
    left: Option<Duration>,
    departures: u32,
}

impl Record {
    /// How long it must be served before it is announced.
    fn hold(&self) -> Duration {
        match self.departures {
            0 | 1 => Duration::ZERO,
            more => SHORTEST_HOLD.saturating_mul(2_u32.saturating_pow(more - 1)).min(LONGEST_HOLD),
        }
    }

    fn leave(&mut self, now: Duration) {
        self.served = None;
        if let Some(since) = self.announced.take() {
            let well = now.saturating_sub(since) >= FORGIVEN_AFTER;
            self.departures = if well { 1 } else { self.departures.saturating_add(1) };
            self.left = Some(now);
        }
    }

    fn is_forgotten(&self, now: Duration) -> bool {
        self.served.is_none() && self.left.is_none_or(|left| now.saturating_sub(left) >= FORGIVEN_AFTER)
    }
}

impl Damping {
    /// Those of the addresses that are served now which may be announced.
    pub fn allow(&mut self, served: &BTreeSet<IpAddr>, now: Duration) -> BTreeSet<IpAddr> {
        for (_, record) in self.0.iter_mut().filter(|(address, _)| !served.contains(address)) {
            record.leave(now);
        }
        self.0.retain(|_, record| !record.is_forgotten(now));
        for address in served {
            let record = self.0.entry(*address).or_default();
            let since = *record.served.get_or_insert(now);
            if record.announced.is_none() && now.saturating_sub(since) >= record.hold() {
                record.announced = Some(now);
            }
        }
        self.0.iter().filter(|(_, record)| record.announced.is_some()).map(|(address, _)| *address).collect()
    }

    /// When the next address may be announced that is held back, if it is served until then.
    pub fn next(&self) -> Option<Duration> {
        let held = self.0.values().filter(|record| record.announced.is_none());
        held.filter_map(|record| Some(record.served? + record.hold())).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one() -> BTreeSet<IpAddr> {
        BTreeSet::from([[192, 0, 2, 1].into()])
    }

    fn nothing() -> BTreeSet<IpAddr> {
        BTreeSet::new()
    }

    /// Lets the address be served until it is announced, and leave at once; how long it was held back.
    fn flap(damping: &mut Damping, now: &mut Duration) -> Duration {
        let began = *now;
        while damping.allow(&one(), *now) != one() {
            *now = damping.next().expect("it is held back");
        }
        let held = *now - began;
        *now += Duration::from_secs(1);
        assert_eq!(damping.allow(&nothing(), *now), nothing(), "leaving is never delayed");
        held
    }

    #[test]
    fn each_return_takes_longer_but_the_first_ones() {
        let (mut damping, mut now) = (Damping::default(), Duration::from_secs(1000));
        let held: Vec<u64> = (0..11).map(|_| flap(&mut damping, &mut now).as_secs()).collect();
        assert_eq!(held, [0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    }

    #[test]
    fn who_is_well_for_long_or_away_for_long_is_forgiven() {
        let (mut damping, mut now) = (Damping::default(), Duration::from_secs(1000));
        for _ in 0..5 {
            flap(&mut damping, &mut now);
        }
        now += FORGIVEN_AFTER;
        damping.allow(&nothing(), now);
        assert!(damping.0.is_empty());
        assert_eq!(flap(&mut damping, &mut now), Duration::ZERO);

        for _ in 0..4 {
            flap(&mut damping, &mut now);
        }
        now += Duration::from_secs(30);
        damping.allow(&one(), now);
        now += LONGEST_HOLD;
        assert_eq!(damping.allow(&one(), now), one());
        now += FORGIVEN_AFTER;
        damping.allow(&nothing(), now);
        assert_eq!(damping.allow(&one(), now), one(), "as after a deploy");
    }

    #[test]
    fn who_leaves_while_held_back_begins_anew() {
        let (mut damping, mut now) = (Damping::default(), Duration::from_secs(1000));
        for _ in 0..3 {
            flap(&mut damping, &mut now);
        }
        for _ in 0..10 {
            assert_eq!(damping.allow(&one(), now), nothing());
            now += Duration::from_secs(3);
            assert_eq!(damping.allow(&nothing(), now), nothing());
        }
        assert_eq!(damping.next(), None);
    }

    proptest! {
        /// Whatever comes and goes: nothing is announced that is not served, and what stays is announced in the end.
        #[test]
        fn only_the_served_are_announced_and_all_of_them_in_the_end(
            steps in prop::collection::vec((prop::collection::btree_set(0..4_u8, 0..4), 0..400_u64), 1..60),
        ) {
            let (mut damping, mut now) = (Damping::default(), Duration::ZERO);
            let mut served = nothing();
            for (numbers, seconds) in steps {
                now += Duration::from_secs(seconds);
                served = numbers.into_iter().map(|number| IpAddr::from([192, 0, 2, number])).collect();
                prop_assert!(damping.allow(&served, now).is_subset(&served));
            }
            prop_assert_eq!(damping.allow(&served, now + LONGEST_HOLD), served);
            prop_assert_eq!(damping.next(), None);
        }
    }
}
