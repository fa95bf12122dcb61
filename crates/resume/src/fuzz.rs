//! Where bytes of strangers enter, for the fuzzer.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::initiator::Initiator;
use crate::keys::Keys;
use crate::packet::{Flow, answered, opened, segment};
use crate::party::Party;
use crate::responder::Responder;
use crate::saved::Saved;
use crate::ticket::{Attempt, Ticket};
use crate::wire::{Direction, HEADER, Header, LARGEST_DATAGRAM};

const NOW: Duration = Duration::from_secs(1_000_000);
const ATTEMPT: [u8; 16] = [6; 16];

fn party(number: u8) -> Party {
    Party { node: format!("n{number}").parse().expect("a name"), mesh_key: [number; 32] }
}

fn flow() -> Flow {
    let host = |last| Ipv6Addr::new(0xfdaa, 0, 24, 0, 0, 0, 0, last);
    Flow { from: (host(1), 40_000), to: (host(2), 8080) }
}

/// Two servers, one of which has just asked the other for a connection; what it sent, and the keys.
struct World {
    initiator: Initiator,
    responder: Responder,
    sent: Vec<u8>,
    header: Header,
    keys: Keys,
}

fn world() -> World {
    let (own, other) = (party(1), party(2));
    let (mut initiator, mut responder) = (Initiator::new(own.clone()), Responder::new(other.clone()));
    let grant = responder.issue(&own, NOW, &[5; 48]);
    let header = Header { direction: Direction::Early, ticket: grant.id, attempt: Attempt(ATTEMPT), number: 0 };
    let keys = Keys::derive(&grant.secret, &own, &other, grant.id, Attempt(ATTEMPT)).expect("keys");
    initiator.keep(Ticket::new(grant, other.clone(), address(), NOW));
    let packet = segment(&flow(), 0x02, 20);
    let (_, sent) = initiator.send(&other.mesh_key, &packet, NOW, || ATTEMPT).expect("a ticket");
    World { initiator, responder, sent, header, keys }
}

fn address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 51_823))
}

/// Inputs to begin with, by name.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut world = world();
    let early = world.sent.clone();
    world.responder.receive(&early, address(), NOW).expect("an early packet");
    let back = Flow { from: flow().to, to: flow().from };
    let agreement = segment(&back, 0x12, 20);
    let (_, answer) = world.responder.answer(&[1; 32], &agreement, NOW).expect("an answer");
    vec![("early", early), ("answer", answer), ("opening", segment(&flow(), 0x02, 20)), ("agreement", agreement)]
}

/// Any bytes, as a datagram to either side, as a packet to be sent early, as what an authentic peer has
/// sealed, and as a file of tickets.
pub fn bytes(bytes: &[u8]) {
    let World { mut initiator, mut responder, header, keys, .. } = world();
    let genuine =
        |direction| Header::read(bytes, direction).is_some_and(|(header, sealed)| keys.open(&header, sealed).is_some());
    let taken = responder.receive(bytes, address(), NOW).is_ok();
    assert!(!taken || genuine(Direction::Early), "a stranger's datagram was taken");
    let taken = initiator.receive(bytes, NOW).is_ok();
    assert!(!taken || genuine(Direction::Answer), "a stranger's answer was taken");
    if let Some((_, datagram)) = initiator.send(&[2; 32], bytes, NOW, || [7; 16]) {
        assert!(opened(bytes).is_some() && datagram.len() <= LARGEST_DATAGRAM);
        let early = responder.receive(&datagram, address(), NOW).expect("what was sent is taken");
        assert!(early.packet == bytes, "a packet has changed on its way");
        assert!(responder.receive(&datagram, address(), NOW).is_err(), "a packet was taken twice");
    }
    for direction in [Direction::Early, Direction::Answer] {
        let header = Header { direction, number: 9, ..header };
        let Some(datagram) = keys.seal(&header, bytes) else { continue };
        assert!(datagram.len() > HEADER);
        match direction {
            Direction::Early => {
                let taken = responder.receive(&datagram, address(), NOW).is_ok();
                assert!(taken == opened(bytes).is_some(), "a peer's packet is judged differently");
            }
            Direction::Answer => {
                let taken = initiator.receive(&datagram, NOW).is_ok();
                assert!(!taken || answered(bytes).is_some(), "what is no answer was taken");
            }
        }
    }
    if let Ok(tickets) = Saved::decode(bytes, "boot", NOW) {
        assert!(tickets.iter().all(|ticket| ticket.is_good(NOW)));
    }
}
