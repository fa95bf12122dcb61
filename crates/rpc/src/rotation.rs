//! When a platform's root is replaced by the next one: a pure function of what is on disk and of the time.
//! Knows neither certificates nor files.
//!
//! A root cannot be replaced at once, since servers that trust only the old one would refuse those that
//! have certificates of the new one. So the two overlap:
//!
//! 1. *announced*: the next root is handed out beside the old one, which still signs;
//! 2. *overlapping*: the new one signs, both are handed out;
//! 3. *settled*: the old one is forgotten.
//!
//! A phase lasts until no certificate is left that was issued before it. Whoever has one that control takes
//! has then heard what the phase has to say, as both come with the same answer. Certificates that ended in
//! control's silence are excused ([`crate::trust`]): a phase begins again after every such silence.

use serde::{Deserialize, Serialize};

use crate::trust::{AUTHORITY_FRESH, TIME_TO_RENEW};

/// Authorities are numbered as they come.
pub type Number = u32;

/// Where a platform's rotation stands; what control keeps on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rotation {
    /// The authority that signs.
    pub issuing: Number,
    #[serde(flatten)]
    pub phase: Phase,
}

/// `since`: when the phase began, or began again, in Unix seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum Phase {
    Settled,
    Announced { next: Number, since: u64 },
    Overlapping { previous: Number, since: u64 },
}

/// A platform that never rotated.
impl Default for Rotation {
    fn default() -> Self {
        Self { issuing: 1, phase: Phase::Settled }
    }
}

/// How long a phase lasts when nothing comes between, for certificates of `life` seconds: theirs, and half
/// as much for clocks that differ.
fn phase_seconds(life: u64) -> u64 {
    life + life / 2
}

impl Rotation {
    /// The authority beside the one that signs, which is trusted too.
    pub fn other(&self) -> Option<Number> {
        match self.phase {
            Phase::Settled => None,
            Phase::Announced { next, .. } => Some(next),
            Phase::Overlapping { previous, .. } => Some(previous),
        }
    }

    pub fn trusts(&self, number: Number) -> bool {
        self.issuing == number || self.other() == Some(number)
    }

    /// A rotation that begins now; `None` while one is under way.
    pub fn begun(&self, now: u64) -> Option<Self> {
        let next = self.issuing + 1;
        (self.phase == Phase::Settled).then_some(Self { phase: Phase::Announced { next, since: now }, ..*self })
    }

    /// When the present phase ends if control is not silent until then, in Unix seconds.
    pub fn phase_ends(&self, life: u64) -> Option<u64> {
        match self.phase {
            Phase::Settled => None,
            Phase::Announced { since, .. } | Phase::Overlapping { since, .. } => Some(since + phase_seconds(life)),
        }
    }

    /// What follows. `alive`: when control was alive last, before now. All in Unix seconds.
    pub fn after(&self, now: u64, alive: u64, life: u64) -> Self {
        // The same silence after which a certificate is excused, for as long.
        let excused = now + TIME_TO_RENEW.as_secs();
        let silent = now > alive + AUTHORITY_FRESH.as_secs();
        // A clock that was set back must not make the phase last until it is where it was.
        let restarts = |since: u64| silent || since > excused;
        let is_over = self.phase_ends(life).is_some_and(|end| now >= end);
        match self.phase {
            Phase::Announced { next, since } if restarts(since) => {
                Self { phase: Phase::Announced { next, since: excused }, ..*self }
            }
            Phase::Overlapping { previous, since } if restarts(since) => {
                Self { phase: Phase::Overlapping { previous, since: excused }, ..*self }
            }
            Phase::Announced { next, .. } if is_over => {
                Self { issuing: next, phase: Phase::Overlapping { previous: self.issuing, since: now } }
            }
            Phase::Overlapping { .. } if is_over => Self { phase: Phase::Settled, ..*self },
            _ => *self,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::trust::Hearing;

    const LIFE: u64 = 3600;
    const START: u64 = 1_000_000;
    /// Processes ask again this often, and control looks at the time.
    const TICK: u64 = 15;

    #[test]
    fn a_rotation_takes_two_lives_and_their_margins() {
        let settled = Rotation::default();
        let announced = settled.begun(START).unwrap();
        assert_eq!(announced.begun(START + 1), None);
        assert!(announced.issuing == 1 && announced.trusts(1) && announced.trusts(2));
        let end = START + LIFE + LIFE / 2;
        assert_eq!(announced.after(end - 1, end - 2, LIFE), announced);
        let overlapping = announced.after(end, end - 1, LIFE);
        assert!(overlapping.issuing == 2 && overlapping.trusts(1) && overlapping.trusts(2));
        let end = end + LIFE + LIFE / 2;
        assert_eq!(overlapping.after(end - 1, end - 2, LIFE), overlapping);
        let settled = overlapping.after(end, end - 1, LIFE);
        assert_eq!(settled, Rotation { issuing: 2, phase: Phase::Settled });
        assert_eq!(settled.after(end + 99 * LIFE, end, LIFE), settled);
        assert_eq!(settled.begun(end).unwrap().other(), Some(3));
    }

    #[test]
    fn a_phase_begins_again_after_a_silence_and_when_the_clock_was_set_back() {
        let announced = Rotation::default().begun(START).unwrap();
        let late = START + 10 * LIFE;
        let again = Phase::Announced { next: 2, since: late + TIME_TO_RENEW.as_secs() };
        assert_eq!(announced.after(late, late - 91, LIFE).phase, again);
        assert!(matches!(announced.after(late, late - 90, LIFE).phase, Phase::Overlapping { .. }));
        let before = START - 10 * LIFE;
        let again = Phase::Announced { next: 2, since: before + TIME_TO_RENEW.as_secs() };
        assert_eq!(announced.after(before, START, LIFE).phase, again);
    }

    #[test]
    fn what_is_on_disk_is_read_again() {
        let announced = Rotation::default().begun(START).unwrap();
        for rotation in [Rotation::default(), announced, announced.after(START + 2 * LIFE, START + 2 * LIFE, LIFE)] {
            let text = serde_json::to_string(&rotation).unwrap();
            assert_eq!(serde_json::from_str::<Rotation>(&text).unwrap(), rotation, "{text}");
        }
    }

    /// A process somewhere: what it was given last.
    #[derive(Clone, Debug)]
    struct Member {
        issued: u64,
        root: Number,
        trusted: BTreeSet<Number>,
        away: bool,
    }

    /// A platform in which no root vouches for the next: the hard case.
    struct World {
        now: u64,
        rotation: Rotation,
        up: bool,
        alive: u64,
        hearing: Hearing,
        members: Vec<Member>,
    }

    #[derive(Clone, Debug)]
    enum Event {
        Begin,
        ControlDies,
        ControlStarts,
        Leaves(usize),
        Returns(usize),
        Passes(u64),
    }

    impl World {
        fn new(members: usize) -> Self {
            let member = |number| Member {
                issued: START - LIFE / 2 + 200 * number as u64,
                root: 1,
                trusted: BTreeSet::from([1]),
                away: false,
            };
            Self {
                now: START,
                rotation: Rotation::default(),
                up: true,
                alive: START,
                hearing: Hearing::new(START),
                members: (0..members).map(member).collect(),
            }
        }

        /// As control, and all who hear it, judge it.
        fn has_lapsed(&self, member: &Member) -> bool {
            self.hearing.judged_time(self.now, member.issued) > member.issued + LIFE
        }

        fn tick(&mut self) {
            self.now += TICK;
            if !self.up {
                return;
            }
            self.hearing.hear(self.now);
            self.rotation = self.rotation.after(self.now, self.alive, LIFE);
            self.alive = self.now;
            for number in 0..self.members.len() {
                let member = &self.members[number];
                let due = !member.away && self.now >= member.issued + LIFE / 2;
                if due && !self.has_lapsed(member) && self.know_each_other(member) {
                    let trusted = (1..=9).filter(|root| self.rotation.trusts(*root)).collect();
                    self.members[number] =
                        Member { issued: self.now, root: self.rotation.issuing, trusted, away: false };
                }
            }
        }

        /// Control and a member; control's own certificate follows each change at once.
        fn know_each_other(&self, member: &Member) -> bool {
            self.rotation.trusts(member.root) && member.trusted.contains(&self.rotation.issuing)
        }

        fn check(&self) -> Result<(), TestCaseError> {
            let standing: Vec<&Member> = self.members.iter().filter(|member| !self.has_lapsed(member)).collect();
            for member in &standing {
                prop_assert!(self.know_each_other(member), "{member:?} and control, {:?}", self.rotation);
                for other in &standing {
                    prop_assert!(member.trusted.contains(&other.root), "{member:?} refuses {other:?}");
                }
            }
            Ok(())
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => Just(Event::Begin),
            1 => Just(Event::ControlDies),
            2 => Just(Event::ControlStarts),
            2 => (0..4_usize).prop_map(Event::Leaves),
            2 => (0..4_usize).prop_map(Event::Returns),
            8 => (1..3 * LIFE / 2).prop_map(Event::Passes),
        ]
    }

    proptest! {
        #[test]
        fn whoever_has_not_lapsed_trusts_and_is_trusted(events in proptest::collection::vec(event(), 1..60)) {
            let mut world = World::new(4);
            for event in events {
                match event {
                    Event::Begin => world.rotation = world.rotation.begun(world.now).unwrap_or(world.rotation),
                    Event::ControlDies => world.up = false,
                    Event::ControlStarts => world.up = true,
                    Event::Leaves(member) => world.members[member].away = true,
                    Event::Returns(member) => world.members[member].away = false,
                    Event::Passes(seconds) => {
                        for _ in 0..seconds / TICK {
                            world.tick();
                            world.check()?;
                        }
                    }
                }
            }
            // Nothing stands still for ever.
            world.up = true;
            for _ in 0..4 * LIFE / TICK {
                world.tick();
                world.check()?;
            }
            prop_assert_eq!(world.rotation.phase, Phase::Settled);
        }
    }
}
