//! Two servers over a network that loses, reorders, repeats, records and changes datagrams, and whose
//! processes restart. Whatever happens, nothing is taken twice, late, changed or by the wrong process.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use atoll_resume::{ATTEMPT_LIFE, Flow, Initiator, MAX_FLOWS, Party, Refused, Responder, Saved, TICKET_LIFE, Ticket};
use proptest::prelude::*;

const BOOT: &str = "boot";
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

fn party(number: u8) -> Party {
    Party { node: format!("n{number}").parse().unwrap(), mesh_key: [number; 32] }
}

fn near() -> SocketAddr {
    "192.0.2.1:51822".parse().unwrap()
}

fn far() -> SocketAddr {
    "192.0.2.2:51822".parse().unwrap()
}

fn flow(number: u16) -> Flow {
    let host = |last| Ipv6Addr::new(0xfdaa, 0, 24, 0, 0, 0, 0, last);
    Flow { from: (host(1), number), to: (host(2), 8080) }
}

/// A TCP header in IPv6.
fn segment(from: (Ipv6Addr, u16), to: (Ipv6Addr, u16), flags: u8) -> Vec<u8> {
    let mut packet = vec![0; 60];
    packet[0] = 0x60;
    packet[5] = 20;
    packet[6] = 6;
    packet[8..24].copy_from_slice(&from.0.octets());
    packet[24..40].copy_from_slice(&to.0.octets());
    packet[40..42].copy_from_slice(&from.1.to_be_bytes());
    packet[42..44].copy_from_slice(&to.1.to_be_bytes());
    packet[52] = 5 << 4;
    packet[53] = flags;
    packet
}

fn opening(number: u16) -> Vec<u8> {
    segment(flow(number).from, flow(number).to, SYN)
}

fn agreement(number: u16) -> Vec<u8> {
    segment(flow(number).to, flow(number).from, SYN_ACK)
}

/// A datagram that was on the wire once; an attacker has all of them.
#[derive(Clone)]
struct Recorded {
    bytes: Vec<u8>,
    /// What is inside.
    packet: Vec<u8>,
    /// Of the process that it was meant for.
    process: u32,
}

struct World {
    now: Duration,
    initiator: Initiator,
    responder: Responder,
    /// Grows with each restart of either.
    processes: (u32, u32),
    random: u64,
    early: Vec<Recorded>,
    answers: Vec<Recorded>,
    taken: HashSet<Vec<u8>>,
    /// By ticket: the attempt that was let in, and when.
    attempts: HashMap<Vec<u8>, (Vec<u8>, Duration)>,
    given: HashMap<[u8; 16], (Duration, u32)>,
}

impl World {
    fn new() -> Self {
        Self {
            now: Duration::from_secs(1_000_000),
            initiator: Initiator::new(party(1)),
            responder: Responder::new(party(2)),
            processes: (0, 0),
            random: 0,
            early: vec![],
            answers: vec![],
            taken: HashSet::new(),
            attempts: HashMap::new(),
            given: HashMap::new(),
        }
    }

    /// Different every time, as random bytes are.
    fn random<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        self.random += 1;
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&self.random.to_be_bytes());
        bytes
    }

    fn give(&mut self) {
        let random = self.random::<48>();
        let grant = self.responder.issue(&party(1), self.now, &random);
        self.given.insert(grant.id.0, (self.now, self.processes.1));
        self.initiator.keep(Ticket::new(grant, party(2), far(), self.now));
    }

    fn open(&mut self, number: u16) -> bool {
        let random = self.random::<16>();
        let packet = opening(number);
        let sent = self.initiator.send(&[2; 32], &packet, self.now, || random);
        let Some((to, bytes)) = sent else { return false };
        assert_eq!(to, far());
        self.early.push(Recorded { bytes, packet, process: self.processes.1 });
        true
    }

    fn agree(&mut self, number: u16) -> bool {
        let packet = agreement(number);
        let Some((to, bytes)) = self.responder.answer(&[1; 32], &packet, self.now) else { return false };
        assert_eq!(to, near());
        self.answers.push(Recorded { bytes, packet, process: self.processes.0 });
        true
    }

    fn deliver_early(&mut self, at: usize) -> Result<(), Refused> {
        let Recorded { bytes, packet, .. } = self.early[at].clone();
        let early = self.responder.receive(&bytes, near(), self.now)?;
        assert_eq!((early.from, early.packet), (party(1).mesh_key, packet), "a packet has changed");
        assert!(self.taken.insert(bytes.clone()), "a datagram was taken twice");
        let (ticket, attempt) = (bytes[4..20].to_vec(), bytes[20..36].to_vec());
        let (first, since) = self.attempts.entry(ticket.clone()).or_insert((attempt.clone(), self.now));
        assert_eq!(*first, attempt, "a ticket was used twice");
        assert!(self.now - *since < ATTEMPT_LIFE, "an attempt went on too long");
        let (given, by) = self.given[&ticket[..]];
        assert_eq!(by, self.processes.1, "a ticket of another process was taken");
        assert!(self.now - given < TICKET_LIFE + ATTEMPT_LIFE, "a ticket was too old");
        Ok(())
    }

    fn deliver_answer(&mut self, at: usize) -> Result<(), Refused> {
        let Recorded { bytes, packet, process } = self.answers[at].clone();
        let answer = self.initiator.receive(&bytes, self.now)?;
        assert_eq!((answer.from, answer.packet), (party(2).mesh_key, packet), "a packet has changed");
        assert!(self.taken.insert(bytes), "a datagram was taken twice");
        assert_eq!(process, self.processes.0, "another process had asked");
        Ok(())
    }

    fn restart_initiator(&mut self) {
        let saved = Saved::new(BOOT, self.initiator.tickets()).encode().unwrap();
        self.initiator = Initiator::new(party(1));
        for ticket in Saved::decode(&saved, BOOT, self.now).unwrap() {
            self.initiator.keep(ticket);
        }
        self.processes.0 += 1;
    }

    /// It was killed before it had noted that a ticket is used.
    fn restart_initiator_with(&mut self, tickets: Vec<Ticket>) {
        self.restart_initiator();
        tickets.into_iter().for_each(|ticket| self.initiator.keep(ticket));
    }

    fn restart_responder(&mut self) {
        self.responder = Responder::new(party(2));
        self.processes.1 += 1;
    }

    fn clean(&mut self) {
        self.initiator.retain(|_| true, self.now);
        self.responder.retain(|_| true, self.now);
    }
}

#[test]
fn a_connection_is_asked_for_and_agreed_to_early() {
    let mut world = World::new();
    world.give();
    world.restart_initiator();
    assert!(world.open(1) && world.open(2) && world.open(1), "a segment may be sent again");
    for at in [2, 0, 1] {
        world.deliver_early(at).unwrap();
    }
    assert!(world.agree(2) && world.agree(1));
    for at in [1, 0] {
        world.deliver_answer(at).unwrap();
    }
}

#[test]
fn whatever_was_recorded_is_refused_and_why_is_known() {
    let mut world = World::new();
    world.give();
    let kept: Vec<Ticket> = world.initiator.tickets().cloned().collect();
    world.restart_initiator();
    world.open(1);
    world.deliver_early(0).unwrap();
    world.agree(1);
    world.deliver_answer(0).unwrap();
    assert_eq!(world.deliver_early(0), Err(Refused::Replayed));
    assert_eq!(world.deliver_answer(0), Err(Refused::Replayed));

    world.restart_initiator_with(kept.clone());
    world.open(1);
    assert_eq!(world.deliver_early(1), Err(Refused::Used), "the ticket once more");
    assert_eq!(world.deliver_answer(0), Err(Refused::Used), "an answer to the process before");

    world.now += ATTEMPT_LIFE;
    assert_eq!(world.deliver_early(0), Err(Refused::Unknown));
    world.clean();
    assert_eq!(world.deliver_early(0), Err(Refused::Unknown));
    assert_eq!(world.deliver_answer(0), Err(Refused::Unknown));
}

#[test]
fn a_responder_that_restarted_knows_no_ticket() {
    let mut world = World::new();
    world.give();
    world.restart_responder();
    world.restart_initiator();
    assert!(world.open(1), "the initiator cannot know");
    assert_eq!(world.deliver_early(0), Err(Refused::Unknown));
    assert!(!world.agree(1));
}

#[test]
fn a_ticket_ends_on_both_sides() {
    let mut world = World::new();
    world.give();
    world.now += TICKET_LIFE - Duration::from_millis(1);
    assert!(world.open(1));
    world.now += Duration::from_millis(1);
    assert_eq!(world.deliver_early(0), Err(Refused::Unknown), "it was on its way too long");
    let mut world = World::new();
    world.give();
    world.now += TICKET_LIFE;
    assert!(!world.open(1));
}

#[test]
fn no_more_connections_and_packets_than_agreed_go_early() {
    let mut world = World::new();
    world.give();
    let sent = (0..200).filter(|number| world.open(*number)).count();
    assert_eq!(sent, MAX_FLOWS);
    let again = (0..200).filter(|_| world.open(0)).count();
    assert_eq!(sent + again, 64);
    for at in 0..64 {
        world.deliver_early(at).unwrap();
    }
    assert!(!world.agree(100), "nobody asked for it");
    assert_eq!((0..200).filter(|_| world.agree(0)).count(), 64);
}

#[test]
fn whoever_is_no_peer_any_more_is_forgotten() {
    let mut world = World::new();
    world.give();
    world.open(1);
    world.responder.retain(|key| *key != [1; 32], world.now);
    assert_eq!(world.deliver_early(0), Err(Refused::Unknown));
    let mut world = World::new();
    world.give();
    world.initiator.retain(|_| false, world.now);
    assert!(!world.open(1));
}

#[test]
fn a_ticket_of_another_server_opens_nothing() {
    let mut world = World::new();
    let random = world.random::<48>();
    let grant = world.responder.issue(&party(3), world.now, &random);
    world.initiator.keep(Ticket::new(grant, party(2), far(), world.now));
    assert!(world.open(1));
    assert_eq!(world.deliver_early(0), Err(Refused::Forged));
}

#[test]
fn forged_datagrams_use_up_a_ticket_not_the_processor() {
    let mut world = World::new();
    world.give();
    world.open(1);
    let mut forged = world.early[0].bytes.clone();
    *forged.last_mut().unwrap() ^= 1;
    let refused: Vec<_> = (0..20).map(|_| world.responder.receive(&forged, near(), world.now).unwrap_err()).collect();
    assert_eq!(refused.iter().filter(|refused| **refused == Refused::Forged).count(), 16);
    assert_eq!(refused.last(), Some(&Refused::Unknown));
}

#[test]
fn tickets_given_are_few_however_often_they_are_asked_for() {
    let mut world = World::new();
    for _ in 0..1_000 {
        world.give();
    }
    let newest: Vec<Ticket> = world.initiator.tickets().cloned().collect();
    assert_eq!(newest.len(), 1);
    assert!(world.open(1));
    world.deliver_early(0).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Give,
    Open(u16),
    Agree(u16),
    /// Late, out of order, again: any that ever was on the wire.
    Early(usize),
    Answer(usize),
    Changed(usize, usize, u8),
    /// One side's datagram thrown back at it.
    Reflected(usize),
    Wait(u64),
    RestartInitiator,
    RestartInitiatorWithOldTickets,
    RestartResponder,
    Clean,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Give),
        8 => (0..6_u16).prop_map(Step::Open),
        5 => (0..6_u16).prop_map(Step::Agree),
        12 => any::<usize>().prop_map(Step::Early),
        8 => any::<usize>().prop_map(Step::Answer),
        3 => (any::<usize>(), any::<usize>(), 1..=255_u8).prop_map(|(at, byte, by)| Step::Changed(at, byte, by)),
        2 => any::<usize>().prop_map(Step::Reflected),
        3 => prop_oneof![0..6_000_u64, 0..700_000_u64].prop_map(Step::Wait),
        2 => Just(Step::RestartInitiator),
        1 => Just(Step::RestartInitiatorWithOldTickets),
        1 => Just(Step::RestartResponder),
        1 => Just(Step::Clean),
    ];
    proptest::collection::vec(step, 1..120)
}

fn any_of(recorded: &[Recorded], at: usize) -> Option<usize> {
    at.checked_rem(recorded.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_taken_twice_late_changed_or_by_the_wrong_process(steps in steps()) {
        let mut world = World::new();
        world.give();
        let mut old_tickets: Vec<Ticket> = Vec::new();
        for step in steps {
            match step {
                Step::Give => world.give(),
                Step::Open(number) => {
                    let before: Vec<Ticket> = world.initiator.tickets().cloned().collect();
                    if world.open(number) && !before.is_empty() {
                        old_tickets = before;
                    }
                }
                Step::Agree(number) => drop(world.agree(number)),
                Step::Early(at) => drop(any_of(&world.early, at).map(|at| world.deliver_early(at))),
                Step::Answer(at) => drop(any_of(&world.answers, at).map(|at| world.deliver_answer(at))),
                Step::Changed(at, byte, by) => {
                    let change = |bytes: &[u8]| {
                        let mut bytes = bytes.to_vec();
                        let at = byte % bytes.len();
                        bytes[at] ^= by;
                        bytes
                    };
                    if let Some(at) = any_of(&world.early, at) {
                        let changed = change(&world.early[at].bytes);
                        prop_assert!(world.responder.receive(&changed, near(), world.now).is_err());
                    }
                    if let Some(at) = any_of(&world.answers, at) {
                        let changed = change(&world.answers[at].bytes);
                        prop_assert!(world.initiator.receive(&changed, world.now).is_err());
                    }
                }
                Step::Reflected(at) => {
                    if let Some(at) = any_of(&world.early, at) {
                        let early = world.early[at].bytes.clone();
                        prop_assert!(world.initiator.receive(&early, world.now).is_err());
                    }
                    if let Some(at) = any_of(&world.answers, at) {
                        let answer = world.answers[at].bytes.clone();
                        prop_assert!(world.responder.receive(&answer, near(), world.now).is_err());
                    }
                }
                Step::Wait(millis) => world.now += Duration::from_millis(millis),
                Step::RestartInitiator => world.restart_initiator(),
                Step::RestartInitiatorWithOldTickets => world.restart_initiator_with(old_tickets.clone()),
                Step::RestartResponder => world.restart_responder(),
                Step::Clean => world.clean(),
            }
        }
        // However it went: a new ticket works.
        world.now += ATTEMPT_LIFE;
        world.clean();
        world.give();
        prop_assert!(world.open(9));
        prop_assert_eq!(world.deliver_early(world.early.len() - 1), Ok(()));
        prop_assert!(world.agree(9));
        prop_assert_eq!(world.deliver_answer(world.answers.len() - 1), Ok(()));
    }

    #[test]
    fn noise_is_nothing_and_changes_nothing(
        noise in proptest::collection::vec(any::<u8>(), 0..200), behind_a_real_header: bool
    ) {
        let mut world = World::new();
        world.give();
        world.open(1);
        let mut noise = noise;
        if behind_a_real_header {
            noise.splice(..0, world.early[0].bytes[..37].iter().copied());
        }
        prop_assert!(world.responder.receive(&noise, near(), world.now).is_err());
        prop_assert!(world.initiator.receive(&noise, world.now).is_err());
        atoll_resume::fuzz::bytes(&noise);
        prop_assert_eq!(world.deliver_early(0), Ok(()));
    }
}

#[test]
fn seeds_of_the_fuzzer_are_read() {
    for (_, seed) in atoll_resume::fuzz::seeds() {
        atoll_resume::fuzz::bytes(&seed);
    }
}
