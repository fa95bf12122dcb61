//! One peer: its tunnels, where it is, and what went through. A lock per peer; nothing else is locked
//! for a packet.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};

use super::identity::Identity;
use super::outbox::Outbox;
use crate::config::PeerStatus;
use crate::key::{PresharedKey, PublicKey};

/// Names a peer in tables; never given twice by one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// Names a tunnel on the wire: the upper 24 bits of its sessions' receiver indices.
pub type TunnelIndex = u32;

/// A tunnel's index, of a receiver index.
pub fn tunnel_of(receiver: u32) -> TunnelIndex {
    receiver >> 8
}

/// The protocol lets no session live longer.
const SESSION_LIFE: Duration = Duration::from_secs(180);
/// How often a silent peer that is to be kept alive is called again after the protocol has given up.
const REVIVAL: Duration = Duration::from_secs(5);
/// Initiations answered beside a live session without one of them being used. Each takes a place among
/// the library's eight sessions, of which the live one has one: a peer whose shared secret has changed
/// before ours, and which calls again and again, would push it out.
const UNCONFIRMED: u8 = 6;
/// From this age on a session is to be replaced anyway.
const SESSION_FRESH: Duration = Duration::from_secs(120);
/// Enough for every message that is no packet.
pub const MESSAGE: usize = 148;

/// Where a peer is, and which address of ours it spoke to: answers come from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub remote: SocketAddr,
    pub local: Option<IpAddr>,
}

impl From<SocketAddr> for Endpoint {
    fn from(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}

/// What makes a tunnel, beside the two identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub preshared_key: Option<PresharedKey>,
    pub keepalive: Option<NonZeroU16>,
}

/// Sessions under one set of terms.
pub struct Tunnel {
    pub noise: Tunn,
    pub index: TunnelIndex,
    /// Whether packets may be waiting in it for a session.
    pub waiting: bool,
}

impl Tunnel {
    fn new(identity: &Identity, peer: PublicKey, terms: &Terms, index: TunnelIndex) -> Self {
        let noise = Tunn::new(
            identity.secret.clone(),
            peer.point(),
            terms.preshared_key.as_ref().map(|key| *key.expose()),
            terms.keepalive.map(NonZeroU16::get),
            index,
            Some(identity.unlimited.clone()),
        );
        Self { noise, index, waiting: false }
    }

    /// Time since the session in use was agreed on.
    pub fn age(&self) -> Option<Duration> {
        self.noise.time_since_last_handshake()
    }
}

/// All about a peer that changes.
pub struct State {
    pub current: Tunnel,
    /// Terms changed inside a live session: this is the one before, which serves until the current
    /// tunnel has a session and accepts for as long as its own lives. It never agrees on new keys.
    pub retiring: Option<Tunnel>,
    pub terms: Terms,
    pub endpoint: Option<Endpoint>,
    /// Until when packets are shown beside the session, as the peer may not know it any more.
    pub shown_until: Option<Instant>,
    /// The endpoint stays, wherever the peer speaks from.
    pub held: bool,
    /// Set once and for ever: whoever still holds the peer must not use it.
    pub removed: bool,
    called: Option<Instant>,
    /// Initiations that were answered since the last one that led to a session in use.
    unconfirmed: u8,
    /// Our index of the session that the last answer offered.
    offered: u32,
}

impl State {
    /// The tunnel of an index; none of a peer that is gone.
    pub fn tunnel(&mut self, index: TunnelIndex) -> Option<&mut Tunnel> {
        if self.removed {
            return None;
        }
        if self.current.index == index {
            return Some(&mut self.current);
        }
        self.retiring.as_mut().filter(|tunnel| tunnel.index == index)
    }

    /// The tunnel to send through.
    pub fn sending(&mut self) -> &mut Tunnel {
        match &mut self.retiring {
            Some(retiring) if self.current.age().is_none() && retiring.age().is_some_and(|age| age < SESSION_LIFE) => {
                retiring
            }
            _ => &mut self.current,
        }
    }

    /// The peer speaks from there.
    pub fn follow(&mut self, from: Endpoint) {
        if !self.held || self.endpoint.is_some_and(|endpoint| endpoint.remote == from.remote) {
            self.endpoint = Some(from);
        }
    }

    /// The peer is said to be there.
    pub fn lead(&mut self, to: SocketAddr) {
        if !self.held && self.endpoint.is_none_or(|known| known.remote != to) {
            self.endpoint = Some(to.into());
        }
    }

    /// Answers an initiation, unless that could cost the live session.
    pub fn answer<'a>(&mut self, initiation: &[u8], buffer: &'a mut [u8; MESSAGE]) -> Option<&'a [u8]> {
        let fresh = self.current.age().is_some_and(|age| age < SESSION_FRESH);
        if self.removed || (fresh && self.unconfirmed >= UNCONFIRMED) {
            return None;
        }
        match self.current.noise.decapsulate(None, initiation, buffer) {
            TunnResult::WriteToNetwork(response) => {
                self.unconfirmed = self.unconfirmed.saturating_add(1);
                self.offered = u32::from_le_bytes(response.get(4..8)?.try_into().ok()?);
                Some(response)
            }
            _ => None,
        }
    }

    /// The session of this index of ours is in use.
    pub fn confirm(&mut self, receiver: u32) {
        if receiver == self.offered {
            self.unconfirmed = 0;
            self.shown_until = None;
        }
    }

    /// Sends what waited in the current tunnel for its session.
    pub fn flush(&mut self, outbox: &mut Outbox) {
        let Some(endpoint) = self.endpoint.filter(|_| self.current.waiting) else { return };
        self.current.waiting = false;
        let mut buffer = vec![0; usize::from(u16::MAX) + MESSAGE];
        while let TunnResult::WriteToNetwork(datagram) = self.current.noise.decapsulate(None, &[], &mut buffer) {
            outbox.push(endpoint, datagram);
        }
    }

    /// The protocol gives up after ninety seconds, for good; a peer to keep alive is called on, as its
    /// server may be back at any time.
    fn revive(&mut self, now: Instant, outbox: &mut Outbox) {
        let due = self.called.is_none_or(|called| now.saturating_duration_since(called) >= REVIVAL);
        if due && self.terms.keepalive.is_some() {
            self.called = Some(now);
            self.call(outbox);
        }
    }

    /// Begins to agree on keys, now.
    pub fn call(&mut self, outbox: &mut Outbox) {
        let mut buffer = [0; MESSAGE];
        let Some(endpoint) = self.endpoint else { return };
        if let TunnResult::WriteToNetwork(datagram) = self.current.noise.format_handshake_initiation(&mut buffer, true)
        {
            outbox.push(endpoint, datagram);
        }
    }
}

pub struct Peer {
    pub id: PeerId,
    pub key: PublicKey,
    state: Mutex<State>,
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
}

impl Peer {
    pub fn new(id: PeerId, key: PublicKey, identity: &Identity, terms: Terms, index: TunnelIndex) -> Self {
        let current = Tunnel::new(identity, key, &terms, index);
        let state = State {
            current,
            retiring: None,
            terms,
            endpoint: None,
            shown_until: None,
            held: false,
            removed: false,
            called: None,
            unconfirmed: 0,
            offered: 0,
        };
        Self { id, key, state: Mutex::new(state), rx_bytes: AtomicU64::new(0), tx_bytes: AtomicU64::new(0) }
    }

    /// Held for the packets of one batch at most, and never while waiting for anything.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn received(&self, bytes: usize) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn sent(&self, bytes: usize) {
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Other terms under the same identities. A live session goes on until the new tunnel has one.
    pub fn change_terms(&self, identity: &Identity, terms: Terms, index: TunnelIndex, outbox: &mut Outbox) {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.current, Tunnel::new(identity, self.key, &terms, index));
        // Terms may change again before they were ever agreed on: what is live stays.
        if before.age().is_some() || state.retiring.is_none() {
            state.retiring = Some(before);
        }
        state.terms = terms;
        state.call(outbox);
    }

    /// Another identity of ours: all sessions end.
    pub fn change_identity(&self, identity: &Identity, index: TunnelIndex, outbox: &mut Outbox) {
        let mut state = self.lock();
        state.current = Tunnel::new(identity, self.key, &state.terms, index);
        state.retiring = None;
        state.call(outbox);
    }

    /// What time brings: keys agreed on again, signs of life, ends. Told every quarter of a second.
    pub fn tick(&self, now: Instant, outbox: &mut Outbox) {
        let mut buffer = [0; MESSAGE];
        let mut state = self.lock();
        if state.removed {
            return;
        }
        if state.retiring.as_ref().is_some_and(|tunnel| tunnel.age().is_none_or(|age| age >= SESSION_LIFE)) {
            state.retiring = None;
        }
        match state.current.noise.update_timers(&mut buffer) {
            TunnResult::WriteToNetwork(datagram) => {
                let endpoint = state.endpoint;
                endpoint.into_iter().for_each(|endpoint| outbox.push(endpoint, datagram));
            }
            TunnResult::Err(WireGuardError::ConnectionExpired) => state.revive(now, outbox),
            _ => {}
        }
    }

    pub fn status(&self) -> PeerStatus {
        let mut state = self.lock();
        let age = state.sending().age();
        PeerStatus {
            public_key: self.key,
            endpoint: state.endpoint.map(|endpoint| endpoint.remote),
            last_handshake: age.and_then(|age| SystemTime::now().checked_sub(age)),
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
        }
    }
}
