//! The side that has restarted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::MAX_FLOWS;
use crate::keys::Keys;
use crate::packet::{self, Flow};
use crate::party::{MeshKey, Party};
use crate::refused::Refused;
use crate::seen::{NUMBERS, Seen};
use crate::ticket::{ATTEMPT_LIFE, Attempt, Ticket, TicketId};
use crate::wire::{Direction, Header};

/// A packet that came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Who sent it.
    pub from: MeshKey,
    pub packet: Vec<u8>,
}

/// Tickets, and attempts under way. Each responder has at most one of either, so both are as many as the
/// peers whose tickets it is given.
pub struct Initiator {
    own: Party,
    tickets: HashMap<MeshKey, Ticket>,
    attempts: HashMap<MeshKey, Running>,
    /// Whose the tickets of attempts were.
    responders: HashMap<TicketId, MeshKey>,
}

struct Running {
    ticket: TicketId,
    attempt: Attempt,
    keys: Keys,
    address: SocketAddr,
    ends: Duration,
    /// Datagrams sent.
    sent: u8,
    seen: Seen,
    /// Connections that were asked for: nothing else can be answered.
    flows: Vec<Flow>,
}

impl Initiator {
    #[must_use]
    pub fn new(own: Party) -> Self {
        Self { own, tickets: HashMap::new(), attempts: HashMap::new(), responders: HashMap::new() }
    }

    /// Keeps a ticket for later, in place of an older one of the same responder.
    pub fn keep(&mut self, ticket: Ticket) {
        self.tickets.insert(ticket.responder.mesh_key, ticket);
    }

    /// What is worth keeping on disk.
    pub fn tickets(&self) -> impl Iterator<Item = &Ticket> {
        self.tickets.values()
    }

    /// Forgets whoever is no peer any more, and what is over.
    pub fn retain(&mut self, is_peer: impl Fn(&MeshKey) -> bool, now: Duration) {
        self.tickets.retain(|key, ticket| is_peer(key) && ticket.is_good(now));
        self.attempts.retain(|key, running| is_peer(key) && now < running.ends);
        let attempts = &self.attempts;
        self.responders.retain(|ticket, key| attempts.get(key).is_some_and(|running| running.ticket == *ticket));
    }

    /// Seals a packet for a responder and says where to send it. None for a packet that must wait for the
    /// session, and where there is no good ticket. The first packet uses the ticket up; `random` is looked at
    /// only then.
    pub fn send(
        &mut self,
        to: &MeshKey,
        packet: &[u8],
        now: Duration,
        random: impl FnOnce() -> [u8; 16],
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let flow = packet::opened(packet)?;
        if !self.attempts.contains_key(to) {
            self.begin(to, now, Attempt(random()))?;
        }
        let running = self.attempts.get_mut(to).filter(|running| now < running.ends && running.sent < NUMBERS)?;
        if !running.flows.contains(&flow) {
            if running.flows.len() >= MAX_FLOWS {
                return None;
            }
            running.flows.push(flow);
        }
        let header = Header {
            direction: Direction::Early,
            ticket: running.ticket,
            attempt: running.attempt,
            number: running.sent,
        };
        running.sent += 1;
        Some((running.address, running.keys.seal(&header, packet)?))
    }

    fn begin(&mut self, to: &MeshKey, now: Duration, attempt: Attempt) -> Option<()> {
        let ticket = self.tickets.remove(to).filter(|ticket| ticket.is_good(now))?;
        let keys = Keys::derive(&ticket.secret, &self.own, &ticket.responder, ticket.id(), attempt)?;
        let running = Running {
            ticket: ticket.id(),
            attempt,
            keys,
            address: ticket.address,
            ends: now + ATTEMPT_LIFE,
            sent: 0,
            seen: Seen::default(),
            flows: Vec::new(),
        };
        self.responders.insert(ticket.id(), *to);
        self.attempts.insert(*to, running);
        Some(())
    }

    /// Opens what came to the port as an answer.
    ///
    /// # Errors
    /// If it is nothing that may be handed on.
    pub fn receive(&mut self, datagram: &[u8], now: Duration) -> Result<Answer, Refused> {
        let (header, sealed) = Header::read(datagram, Direction::Answer).ok_or(Refused::Malformed)?;
        let from = *self.responders.get(&header.ticket).ok_or(Refused::Unknown)?;
        let running = self.attempts.get_mut(&from).filter(|running| running.ticket == header.ticket);
        let running = running.filter(|running| now < running.ends).ok_or(Refused::Unknown)?;
        if running.attempt != header.attempt {
            return Err(Refused::Used);
        }
        if !running.seen.is_new(header.number) {
            return Err(Refused::Replayed);
        }
        let packet = running.keys.open(&header, sealed).ok_or(Refused::Forged)?;
        running.seen.note(header.number);
        let expected = packet::answered(&packet).is_some_and(|flow| running.flows.contains(&flow));
        if expected { Ok(Answer { from, packet }) } else { Err(Refused::NotAllowed) }
    }
}
