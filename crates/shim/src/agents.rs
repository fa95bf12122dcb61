//! The agents connected to a shim: usually one, for a moment two while an agent is replaced. An
//! agent that misbehaves or stops reading is let go; the machine is not touched by that.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

use atoll_guest_protocol::shim::{FromShim, Phase, ToShim};
use atoll_guest_protocol::{Channel, Connection, Frame, Versions, frame};

/// Most agents at once; a further one is refused.
const MOST: usize = 8;
/// An agent that leaves this much unread is let go. Windows keep a working one far below.
const BACKLOG_MAX: usize = 8 * 1024 * 1024;

pub type AgentId = u32;

/// What an agent sent.
#[derive(Debug)]
pub enum Incoming {
    Message(ToShim),
    Stdin { stream: u32, bytes: Vec<u8> },
}

#[derive(Debug, Default)]
pub struct Agents {
    connections: BTreeMap<AgentId, Connection<UnixStream>>,
    last: AgentId,
}

impl Agents {
    /// Greets an agent and tells it how far the machine is. The stream must be non-blocking.
    pub fn add(&mut self, stream: UnixStream, phase: &Phase) {
        if self.connections.len() >= MOST {
            return;
        }
        self.last = self.last.wrapping_add(1);
        self.connections.insert(self.last, Connection::new(stream));
        self.send(self.last, &FromShim::Hello(Versions::OURS));
        self.send(self.last, &FromShim::Machine(phase.clone()));
    }

    pub fn connections(&self) -> impl Iterator<Item = (AgentId, &Connection<UnixStream>)> {
        self.connections.iter().map(|(id, connection)| (*id, connection))
    }

    /// Reads what an agent sent, up to its first fault.
    pub fn receive(&mut self, id: AgentId) -> Vec<Incoming> {
        let Some(connection) = self.connections.get_mut(&id) else { return Vec::new() };
        let mut incoming = Vec::new();
        let mut healthy = connection.fill().unwrap_or(false);
        loop {
            match connection.next_frame() {
                Ok(Some(Frame::Control(body))) => match frame::parse(&body) {
                    Ok(ToShim::Hello(theirs)) => healthy &= Versions::OURS.agree(theirs).is_ok(),
                    Ok(message) => incoming.push(Incoming::Message(message)),
                    Err(_) => healthy = false,
                },
                Ok(Some(Frame::Data { channel: Channel::Stdin, stream, bytes })) => {
                    incoming.push(Incoming::Stdin { stream, bytes });
                }
                Ok(Some(Frame::Data { .. })) | Err(_) => healthy = false,
                Ok(None) => break,
            }
            if !healthy {
                break;
            }
        }
        if !healthy {
            self.connections.remove(&id);
        }
        incoming
    }

    pub fn send(&mut self, id: AgentId, message: &FromShim) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.send(message).is_err()
        {
            self.connections.remove(&id);
        }
    }

    pub fn send_data(&mut self, id: AgentId, channel: Channel, stream: u32, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send_data(channel, stream, bytes);
        }
    }

    pub fn broadcast(&mut self, message: &FromShim) {
        let ids: Vec<AgentId> = self.connections.keys().copied().collect();
        ids.into_iter().for_each(|id| self.send(id, message));
    }

    /// Sends what agents take now.
    pub fn flush(&mut self) {
        self.connections.retain(|_, connection| connection.flush().is_ok() && connection.backlog() < BACKLOG_MAX);
    }

    pub fn contains(&self, id: AgentId) -> bool {
        self.connections.contains_key(&id)
    }

    pub fn backlog(&self) -> usize {
        self.connections.values().map(Connection::backlog).sum()
    }

    pub fn drop_agent(&mut self, id: AgentId) {
        self.connections.remove(&id);
    }
}
