//! The side that went on running. It knows only tickets that this very process gave: what was given before
//! a restart is unknown, and a ticket that was used is not among those that can be.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::MAX_FLOWS;
use crate::keys::Keys;
use crate::packet::{self, Flow};
use crate::party::{MeshKey, Party};
use crate::refused::Refused;
use crate::seen::{NUMBERS, Seen};
use crate::ticket::{ATTEMPT_LIFE, Attempt, Grant, GrantBytes, Secret, TICKET_LIFE, TicketId};
use crate::wire::{Direction, Header};

/// Unused tickets of one initiator: the one in use there, and one whose delivery may have failed.
const MAX_UNUSED: usize = 2;
/// Broken seals that one ticket may cost; whoever knows its id stands on the way and can also drop.
const MAX_BROKEN: u8 = 16;

/// A packet that came early.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Early {
    /// Who sent it.
    pub from: MeshKey,
    pub packet: Vec<u8>,
    /// Until when its answers are to be handed to [`Responder::answer`].
    pub until: Duration,
}

/// Tickets given and not used, and attempts under way: three of either together per initiator.
pub struct Responder {
    own: Party,
    initiators: HashMap<MeshKey, Known>,
    by_ticket: HashMap<TicketId, MeshKey>,
}

struct Known {
    party: Party,
    unused: VecDeque<Unused>,
    running: Option<Running>,
}

struct Unused {
    id: TicketId,
    secret: Secret,
    expires: Duration,
    broken: u8,
}

struct Running {
    ticket: TicketId,
    attempt: Attempt,
    keys: Keys,
    ends: Duration,
    /// Where its latest packet came from.
    address: SocketAddr,
    /// Answers sent.
    sent: u8,
    seen: Seen,
    flows: Vec<Flow>,
}

impl Known {
    fn has(&self, ticket: &TicketId) -> bool {
        self.unused.iter().any(|unused| unused.id == *ticket)
            || self.running.as_ref().is_some_and(|running| running.ticket == *ticket)
    }
}

impl Responder {
    #[must_use]
    pub fn new(own: Party) -> Self {
        Self { own, initiators: HashMap::new(), by_ticket: HashMap::new() }
    }

    /// Gives a ticket to an initiator whose name was proven and whose key in the mesh is known to be this.
    pub fn issue(&mut self, to: &Party, now: Duration, random: &GrantBytes) -> Grant {
        let grant = Grant::new(random);
        let fresh = || Known { party: to.clone(), unused: VecDeque::new(), running: None };
        let known = self.initiators.entry(to.mesh_key).or_insert_with(fresh);
        if known.party != *to {
            // The key is another server's now.
            *known = fresh();
        }
        while known.unused.len() >= MAX_UNUSED {
            known.unused.pop_front();
        }
        let unused = Unused { id: grant.id, secret: grant.secret.clone(), expires: now + TICKET_LIFE, broken: 0 };
        known.unused.push_back(unused);
        self.by_ticket.insert(grant.id, to.mesh_key);
        self.prune();
        grant
    }

    /// Forgets whoever is no peer any more, and what is over.
    pub fn retain(&mut self, is_peer: impl Fn(&MeshKey) -> bool, now: Duration) {
        self.initiators.retain(|key, known| {
            known.unused.retain(|unused| now < unused.expires);
            known.running = known.running.take().filter(|running| now < running.ends);
            is_peer(key) && (known.running.is_some() || !known.unused.is_empty())
        });
        let initiators = &self.initiators;
        self.by_ticket.retain(|ticket, key| initiators.get(key).is_some_and(|known| known.has(ticket)));
    }

    /// Forgets the names of tickets that are gone, once they are as many as those that are not.
    fn prune(&mut self) {
        if self.by_ticket.len() > 2 * (MAX_UNUSED + 1) * self.initiators.len() {
            let initiators = &self.initiators;
            self.by_ticket.retain(|ticket, key| initiators.get(key).is_some_and(|known| known.has(ticket)));
        }
    }

    /// Opens what came to the port as an early packet. Nothing changes unless it is authentic, but that a
    /// ticket endures only so many broken seals.
    ///
    /// # Errors
    /// If it is nothing that may be handed on. Nobody is to be told.
    pub fn receive(&mut self, datagram: &[u8], from: SocketAddr, now: Duration) -> Result<Early, Refused> {
        let (header, sealed) = Header::read(datagram, Direction::Early).ok_or(Refused::Malformed)?;
        let key = *self.by_ticket.get(&header.ticket).ok_or(Refused::Unknown)?;
        let known = self.initiators.get_mut(&key).ok_or(Refused::Unknown)?;
        let again = known.running.as_ref().is_some_and(|running| running.ticket == header.ticket);
        let (running, packet) = if again {
            let running = known.running.as_mut().filter(|running| now < running.ends).ok_or(Refused::Unknown)?;
            let packet = running.open(&header, sealed)?;
            (running, packet)
        } else {
            let (keys, packet) = redeem(known, &self.own, &header, sealed, now)?;
            let running = known.running.insert(Running {
                ticket: header.ticket,
                attempt: header.attempt,
                keys,
                ends: now + ATTEMPT_LIFE,
                address: from,
                sent: 0,
                seen: Seen::default(),
                flows: Vec::new(),
            });
            (running, packet)
        };
        running.seen.note(header.number);
        running.address = from;
        let flow = packet::opened(&packet).ok_or(Refused::NotAllowed)?;
        if !running.flows.contains(&flow) {
            if running.flows.len() >= MAX_FLOWS {
                return Err(Refused::TooMany);
            }
            running.flows.push(flow);
        }
        Ok(Early { from: key, packet, until: running.ends })
    }

    /// Seals an answer to what an initiator has asked early, and says where to send it. None for any other
    /// packet.
    pub fn answer(&mut self, to: &MeshKey, packet: &[u8], now: Duration) -> Option<(SocketAddr, Vec<u8>)> {
        let flow = packet::answered(packet)?;
        let running = self.initiators.get_mut(to)?.running.as_mut()?;
        if now >= running.ends || running.sent >= NUMBERS || !running.flows.contains(&flow) {
            return None;
        }
        let header = Header {
            direction: Direction::Answer,
            ticket: running.ticket,
            attempt: running.attempt,
            number: running.sent,
        };
        running.sent += 1;
        Some((running.address, running.keys.seal(&header, packet)?))
    }
}

impl Running {
    fn open(&self, header: &Header, sealed: &[u8]) -> Result<Vec<u8>, Refused> {
        if self.attempt != header.attempt {
            return Err(Refused::Used);
        }
        if !self.seen.is_new(header.number) {
            return Err(Refused::Replayed);
        }
        self.keys.open(header, sealed).ok_or(Refused::Forged)
    }
}

/// Takes an unused ticket for the attempt of its first authentic datagram.
fn redeem(
    known: &mut Known,
    own: &Party,
    header: &Header,
    sealed: &[u8],
    now: Duration,
) -> Result<(Keys, Vec<u8>), Refused> {
    let at = known.unused.iter().position(|unused| unused.id == header.ticket).ok_or(Refused::Unknown)?;
    let unused = known.unused.get_mut(at).filter(|unused| now < unused.expires).ok_or(Refused::Unknown)?;
    if !Seen::default().is_new(header.number) {
        return Err(Refused::Replayed);
    }
    let keys = Keys::derive(&unused.secret, &known.party, own, header.ticket, header.attempt);
    let opened = keys.and_then(|keys| keys.open(header, sealed).map(|packet| (keys, packet)));
    let Some(opened) = opened else {
        unused.broken += 1;
        if unused.broken >= MAX_BROKEN {
            known.unused.remove(at);
        }
        return Err(Refused::Forged);
    };
    known.unused.remove(at);
    Ok(opened)
}
