use proptest::prelude::*;

use super::*;

const PLATFORM: &str = "0a1b2c3d";

fn end(name: &str, number: u8) -> End {
    End { node: name.parse().unwrap(), key: PublicKey([number; 32]) }
}

fn half(number: u8, certificate_until: u64) -> Half {
    Half { random: Zeroizing::new([number; HALF_BYTES]), certificate_until }
}

#[test]
fn a_secret_is_that_of_its_pair_platform_and_certificates_alone() {
    let (ams, nrt) = (end("ams", 1), end("nrt", 2));
    let id = SecretId([7; 16]);
    let made = derive(PLATFORM, id, (&ams, &half(3, 100)), (&nrt, &half(4, 200)));
    assert_eq!(made, derive(PLATFORM, id, (&ams, &half(3, 100)), (&nrt, &half(4, 200))));
    let others = [
        derive("ff", id, (&ams, &half(3, 100)), (&nrt, &half(4, 200))),
        derive(PLATFORM, SecretId([8; 16]), (&ams, &half(3, 100)), (&nrt, &half(4, 200))),
        derive(PLATFORM, id, (&nrt, &half(3, 100)), (&ams, &half(4, 200))),
        derive(PLATFORM, id, (&end("ams", 9), &half(3, 100)), (&nrt, &half(4, 200))),
        derive(PLATFORM, id, (&ams, &half(3, 101)), (&nrt, &half(4, 200))),
        derive(PLATFORM, id, (&ams, &half(3, 100)), (&nrt, &half(4, 201))),
        derive(PLATFORM, id, (&ams, &half(4, 100)), (&nrt, &half(3, 200))),
    ];
    for other in others {
        assert_ne!(made.key, other.key);
    }
}

/// What may happen between the two, in any order.
#[derive(Clone, Debug)]
enum Event {
    /// The leader does what it has to; its question or the answer may be lost.
    Ask {
        arrives: bool,
        answered: bool,
    },
    /// The leader has a new certificate.
    Renewed,
    /// One of them begins anew with nothing on its disk.
    LeaderForgets,
    FollowerForgets,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (any::<bool>(), any::<bool>()).prop_map(|(arrives, answered)| Event::Ask { arrives, answered }),
        2 => Just(Event::Renewed),
        1 => Just(Event::LeaderForgets),
        1 => Just(Event::FollowerForgets),
    ]
}

/// Two servers and what is between them. Both write before they answer, so a restart is a lost answer.
#[derive(Default)]
struct World {
    leader: Pair,
    follower: Pair,
    certificate_until: u64,
    ids: u8,
}

impl World {
    fn mean_the_same(&self) -> bool {
        self.leader.current() == self.follower.current()
    }

    fn ask(&mut self, arrives: bool, answered: bool) {
        // Whether handshakes succeed is just what probes tell.
        let Some(ask) = self.leader.next(self.certificate_until, self.mean_the_same()) else { return };
        if !arrives {
            return;
        }
        match ask {
            Ask::Offer => {
                self.ids += 1;
                let id = SecretId([self.ids; 16]);
                let (ams, nrt) = (end("ams", 1), end("nrt", 2));
                let leading = half(self.ids, self.certificate_until);
                let secret = derive(PLATFORM, id, (&ams, &leading), (&nrt, &half(0, 1)));
                self.follower.agree(secret.clone());
                if answered {
                    self.leader.agree(secret);
                }
            }
            Ask::Use(id) => {
                let known = self.follower.take_into_use(id) != Used::Unknown;
                match (answered, known) {
                    (true, true) => drop(self.leader.take_into_use(id)),
                    (true, false) => self.leader.disowned(id),
                    (false, _) => {}
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_lost_both_soon_mean_the_same_secret(events in prop::collection::vec(event(), 0..60)) {
        let mut world = World { certificate_until: 1, ..World::default() };
        for event in events {
            match event {
                Event::Ask { arrives, answered } => world.ask(arrives, answered),
                Event::Renewed => world.certificate_until += 1,
                Event::LeaderForgets => world.leader = Pair::default(),
                Event::FollowerForgets => world.follower = Pair::default(),
            }
        }
        // Use, told it is unknown, Offer, Use.
        (0..4).for_each(|_| world.ask(true, true));
        prop_assert!(world.mean_the_same());
        let current = world.leader.current().map(|secret| secret.leader_until);
        prop_assert_eq!(current, Some(world.certificate_until), "the secret is the new certificate's");
        prop_assert_eq!(world.leader.next(world.certificate_until, true), None, "and nothing is left to do");
    }

    #[test]
    fn nobody_uses_what_the_other_does_not_know(events in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..60)) {
        let mut world = World { certificate_until: 1, ..World::default() };
        for (arrives, answered, renewed) in events {
            world.certificate_until += u64::from(renewed);
            world.ask(arrives, answered);
            if let Some(used) = world.follower.current() {
                let known = world.leader.current() == Some(used) || world.leader.agreed.as_ref() == Some(used);
                prop_assert!(known, "the follower uses what its leader cannot");
            }
            if let Some(used) = world.leader.current() {
                prop_assert!(world.follower.current() == Some(used) || world.follower.agreed.is_some()
                    || world.leader.agreed.is_some(), "the leader uses what its follower cannot");
            }
        }
    }
}
