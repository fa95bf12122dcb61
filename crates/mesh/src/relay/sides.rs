//! Where the two are that a port is for. No I/O, and time is given.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::userspace::Endpoint;

/// Who was heard at its present place within this is not believed to have moved on.
const SETTLED: Duration = Duration::from_secs(2);

struct Side {
    /// Where it was said to be.
    told: SocketAddr,
    at: Endpoint,
    heard: Option<Instant>,
}

impl Side {
    fn new(told: SocketAddr) -> Self {
        Self { told, at: told.into(), heard: None }
    }

    /// Another port of the same address: a translator of addresses gives one for each destination.
    fn may_be_at(&self, place: SocketAddr, now: Instant) -> bool {
        let settled = self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < SETTLED);
        self.at.remote.ip() == place.ip() && !settled
    }
}

pub struct Sides([Side; 2]);

impl Sides {
    pub fn new(told: [SocketAddr; 2]) -> Self {
        Self(told.map(Side::new))
    }

    /// What is said again changes nothing.
    pub fn set(&mut self, told: [SocketAddr; 2]) {
        for (side, told) in self.0.iter_mut().zip(told) {
            if side.told != told {
                *side = Side::new(told);
            }
        }
    }

    /// Where to pass on what came from there; none if it is of neither.
    pub fn across(&mut self, from: Endpoint, now: Instant) -> Option<Endpoint> {
        let known = self.0.iter().position(|side| side.at.remote == from.remote);
        let side = known.or_else(|| {
            let [one, other] = self.0.each_ref().map(|side| side.may_be_at(from.remote, now));
            // Both may be behind one address.
            (one != other).then_some(usize::from(other))
        })?;
        self.0[side].at = from;
        self.0[side].heard = Some(now);
        Some(self.0[1 - side].at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "192.0.2.1:51820";
    const B: &str = "192.0.2.2:51820";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn sides() -> Sides {
        Sides::new([at(A), at(B)])
    }

    fn across(sides: &mut Sides, from: &str, now: Instant) -> Option<SocketAddr> {
        sides.across(at(from).into(), now).map(|to| to.remote)
    }

    #[test]
    fn what_comes_from_one_goes_to_the_other_and_strangers_go_nowhere() {
        let (mut sides, now) = (sides(), Instant::now());
        assert_eq!(across(&mut sides, A, now), Some(at(B)));
        assert_eq!(across(&mut sides, B, now), Some(at(A)));
        assert_eq!(across(&mut sides, "192.0.2.3:51820", now), None);
    }

    #[test]
    fn one_behind_a_translator_is_followed_to_its_port_until_it_is_settled() {
        let (mut sides, now) = (sides(), Instant::now());
        assert_eq!(across(&mut sides, "192.0.2.1:1024", now), Some(at(B)));
        assert_eq!(across(&mut sides, B, now), Some(at("192.0.2.1:1024")));
        assert_eq!(across(&mut sides, "192.0.2.1:1025", now), None, "it was heard just now");
        assert_eq!(across(&mut sides, "192.0.2.1:1025", now + SETTLED), Some(at(B)));
        sides.set([at(A), at(B)]);
        assert_eq!(across(&mut sides, B, now + SETTLED), Some(at("192.0.2.1:1025")));
        sides.set([at("192.0.2.9:51820"), at(B)]);
        assert_eq!(across(&mut sides, B, now + SETTLED), Some(at("192.0.2.9:51820")));
    }

    #[test]
    fn of_two_behind_one_address_neither_is_guessed() {
        let mut sides = Sides::new([at("192.0.2.1:1"), at("192.0.2.1:2")]);
        assert_eq!(across(&mut sides, "192.0.2.1:3", Instant::now()), None);
        assert_eq!(across(&mut sides, "192.0.2.1:2", Instant::now()), Some(at("192.0.2.1:1")));
    }
}
