//! What happens to packets and datagrams, without I/O: bytes in, bytes out, and nothing that waits.
//!
//! A packet's way reads two immutable snapshots (peers, addresses) and takes the lock of its own peer.
//! Changes are made one at a time beside it. The clock alone is not given: the protocol's library reads
//! it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use boringtun::noise::TunnResult;

use super::addresses::{AddressTable, Step};
use super::counters::{Counters, count};
use super::datagram::{Datagram, destination, source};
use super::identity::{Identity, Verdict};
use super::outbox::{Bursts, Outbox};
use super::peer::{Endpoint, MESSAGE, Peer, PeerId, State, Terms, TunnelIndex, tunnel_of};
use crate::beside::Taker;
use crate::config::{AddressChange, MAX_ADDRESSES, MAX_PEERS, PeerConfig, PeerStatus};
use crate::error::MeshError;
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// Datagrams that are handled at once; the kernel joins fewer.
pub const BATCH: usize = 128;
/// What the protocol adds to a packet, in bytes.
const OVERHEAD: usize = 32;

/// What came out of received datagrams.
pub struct Inbound {
    /// The first `count` are packets, each behind `headroom` bytes; the others are spare.
    pub packets: Vec<Vec<u8>>,
    pub count: usize,
    pub outbox: Outbox,
    headroom: usize,
}

impl Inbound {
    pub fn new(headroom: usize) -> Self {
        Self { packets: vec![Vec::new(); BATCH], count: 0, outbox: Outbox::default(), headroom }
    }

    /// The next packet's place.
    fn room(&mut self, length: usize) -> &mut [u8] {
        let packet = &mut self.packets[self.count];
        packet.resize(self.headroom + length, 0);
        &mut packet[self.headroom..]
    }

    /// The first `length` bytes of the room are a packet.
    fn push(&mut self, length: usize) {
        self.packets[self.count].truncate(self.headroom + length);
        self.count += 1;
    }
}

/// All peers, by all that names them.
#[derive(Clone, Default)]
struct Directory {
    by_id: HashMap<PeerId, Arc<Peer>>,
    by_key: HashMap<PublicKey, Arc<Peer>>,
    /// May name tunnels that have ended; their peers know.
    by_tunnel: HashMap<TunnelIndex, Arc<Peer>>,
}

impl Directory {
    /// An index that nobody has and nobody can guess.
    fn free_tunnel(&self) -> TunnelIndex {
        loop {
            let index = tunnel_of(rand::random());
            if !self.by_tunnel.contains_key(&index) {
                return index;
            }
        }
    }

    /// Forgets tunnels that have ended, once they are as many as those that have not.
    fn prune(&mut self) {
        if self.by_tunnel.len() > 2 * self.by_id.len() + 8 {
            self.by_tunnel.retain(|index, peer| peer.lock().tunnel(*index).is_some());
        }
    }
}

pub struct Core {
    identity: ArcSwap<Identity>,
    directory: ArcSwap<Directory>,
    addresses: AddressTable<PeerId>,
    counters: Counters,
    taker: OnceLock<Taker>,
    /// The last id given; held by whoever changes peers or addresses.
    changing: Mutex<u32>,
}

/// The way of datagrams and packets.
impl Core {
    /// Opens datagrams that came in together: all `segment` bytes long, but the last.
    pub fn inbound(&self, bytes: &[u8], segment: usize, from: Endpoint, into: &mut Inbound) {
        into.count = 0;
        let directory = self.directory.load();
        let mut datagrams = bytes.chunks(segment.max(1)).take(BATCH).peekable();
        while let Some(datagram) = datagrams.next() {
            match Datagram::of(datagram) {
                None => count(&self.counters.malformed),
                Some(Datagram::Initiation) => self.initiation(&directory, datagram, from, into),
                Some(Datagram::Answer { receiver }) => self.answer(&directory, receiver, datagram, from, into),
                Some(Datagram::Data { receiver }) => {
                    let Some(peer) = directory.by_tunnel.get(&tunnel_of(receiver)) else {
                        count(&self.counters.unknown_session);
                        continue;
                    };
                    let mut state = peer.lock();
                    self.open(peer, &mut state, receiver, datagram, from, into);
                    let same = |next: &&[u8]| Datagram::of(next) == Some(Datagram::Data { receiver });
                    while let Some(next) = datagrams.next_if(same) {
                        self.open(peer, &mut state, receiver, next, from, into);
                    }
                }
            }
        }
    }

    /// One datagram of a session.
    fn open(&self, peer: &Peer, state: &mut State, receiver: u32, datagram: &[u8], from: Endpoint, into: &mut Inbound) {
        let Some(tunnel) = state.tunnel(tunnel_of(receiver)) else {
            count(&self.counters.unknown_session);
            return;
        };
        let room = into.room(datagram.len());
        let (length, source) = match tunnel.noise.decapsulate(None, datagram, room) {
            TunnResult::WriteToTunnelV4(packet, source) => (packet.len(), Some(source.into())),
            TunnResult::WriteToTunnelV6(packet, source) => (packet.len(), Some(source.into())),
            // A sign of life.
            TunnResult::Done => (0, None),
            TunnResult::Err(_) | TunnResult::WriteToNetwork(_) => {
                count(&self.counters.rejected);
                return;
            }
        };
        peer.received(datagram.len());
        state.follow(from);
        state.confirm(receiver);
        state.flush(&mut into.outbox);
        match source {
            Some(source) if self.addresses.owner(source) == Some(peer.id) => into.push(length),
            Some(_) => count(&self.counters.spoofed),
            None => {}
        }
    }

    /// Somebody wants to agree on keys. The answer goes where the question came from, but the peer is not
    /// believed to be there yet: an initiation can be one that was recorded before we were restarted. The
    /// first packet of the new session shows it.
    fn initiation(&self, directory: &Directory, datagram: &[u8], from: Endpoint, into: &mut Inbound) {
        let identity = self.identity.load();
        if !self.admit(&identity, datagram, from, into) {
            return;
        }
        let initiator = identity.initiator(datagram).ok();
        let Some(peer) = initiator.and_then(|key| directory.by_key.get(&key)) else {
            count(&self.counters.unknown_peer);
            return;
        };
        let mut buffer = [0; MESSAGE];
        let mut state = peer.lock();
        match state.answer(datagram, &mut buffer) {
            Some(response) => into.outbox.push(from, response),
            None => count(&self.counters.rejected),
        }
    }

    /// An answer to a handshake of ours.
    fn answer(&self, directory: &Directory, receiver: u32, datagram: &[u8], from: Endpoint, into: &mut Inbound) {
        if !self.admit(&self.identity.load(), datagram, from, into) {
            return;
        }
        let Some(peer) = directory.by_tunnel.get(&tunnel_of(receiver)) else {
            count(&self.counters.unknown_session);
            return;
        };
        let mut buffer = [0; MESSAGE];
        let mut state = peer.lock();
        if state.removed || state.current.index != tunnel_of(receiver) {
            count(&self.counters.unknown_session);
            return;
        }
        match state.current.noise.decapsulate(None, datagram, &mut buffer) {
            // Keys are agreed on; the other side waits for a first sign of it.
            TunnResult::WriteToNetwork(sign) => {
                into.outbox.push(from, sign);
                state.shown_until = None;
                state.follow(from);
                state.flush(&mut into.outbox);
            }
            // A cookie for the next initiation.
            TunnResult::Done => {}
            _ => count(&self.counters.rejected),
        }
    }

    /// Whether a handshake message is worth computing for.
    fn admit(&self, identity: &Identity, datagram: &[u8], from: Endpoint, into: &mut Inbound) -> bool {
        match identity.judge(from.remote.ip(), datagram) {
            Verdict::Pass => return true,
            Verdict::Challenge(cookie) => {
                count(&self.counters.challenged);
                into.outbox.push(from, &cookie);
            }
            Verdict::Refuse => count(&self.counters.unknown_peer),
        }
        false
    }

    /// Encrypts packets, in order.
    pub fn outbound<'a>(&self, packets: impl Iterator<Item = &'a [u8]>, into: &mut Bursts) {
        into.clear();
        let directory = self.directory.load();
        let mut packets = packets.peekable();
        while let Some(packet) = packets.next() {
            let to = destination(packet);
            let owner = to.and_then(|to| self.addresses.owner(to));
            let Some(peer) = owner.and_then(|id| directory.by_id.get(&id)) else {
                count(&self.counters.no_route);
                continue;
            };
            let mut state = peer.lock();
            self.seal(peer, &mut state, packet, into);
            while let Some(next) = packets.next_if(|next| destination(next) == to) {
                self.seal(peer, &mut state, next, into);
            }
        }
    }

    /// One packet.
    fn seal(&self, peer: &Peer, state: &mut State, packet: &[u8], into: &mut Bursts) {
        let Some(endpoint) = state.endpoint.filter(|_| !state.removed) else {
            count(&self.counters.no_endpoint);
            return;
        };
        let room = into.room();
        // The library panics where it has no room.
        if room.len() < (packet.len() + OVERHEAD).max(MESSAGE) {
            count(&self.counters.not_sent);
            return;
        }
        let tunnel = state.sending();
        let waits = match tunnel.noise.encapsulate(packet, room) {
            TunnResult::WriteToNetwork(datagram) => {
                // Without a session it is an initiation, and the packet waits.
                let waits = Datagram::of(datagram) == Some(Datagram::Initiation);
                let length = datagram.len();
                peer.sent(length);
                into.push(endpoint, length);
                waits
            }
            TunnResult::Done => true,
            _ => return count(&self.counters.not_sent),
        };
        tunnel.waiting |= waits;
        if waits || state.shown_until.is_some_and(|until| Instant::now() < until) {
            self.show(peer, packet);
        }
    }

    fn show(&self, peer: &Peer, packet: &[u8]) {
        if let Some(taker) = self.taker.get() {
            taker(peer.key, packet);
        }
    }

    /// Whether a peer may send this packet.
    pub fn allows(&self, peer: PublicKey, packet: &[u8]) -> bool {
        let id = self.peer(peer).map(|peer| peer.id).ok();
        let owner = source(packet).and_then(|source| self.addresses.owner(source));
        let allowed = id.is_some() && owner == id;
        if !allowed {
            count(&self.counters.spoofed);
        }
        allowed
    }

    /// What time brings, for all peers.
    pub fn tick(&self, now: Instant, outbox: &mut Outbox) {
        self.identity.load().tick();
        for peer in self.directory.load().by_id.values() {
            peer.tick(now, outbox);
        }
    }
}

/// Changes.
impl Core {
    pub fn new(key: &PrivateKey) -> Self {
        Self {
            identity: ArcSwap::from_pointee(Identity::new(key)),
            directory: ArcSwap::default(),
            addresses: AddressTable::default(),
            counters: Counters::default(),
            taker: OnceLock::new(),
            changing: Mutex::new(0),
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Only the first is taken.
    pub fn show_to(&self, taker: Taker) {
        if self.taker.set(taker).is_err() {
            tracing::warn!("packets that wait are shown to somebody already");
        }
    }

    pub fn show_until(&self, peer: PublicKey, until: Instant) {
        if let Ok(peer) = self.peer(peer) {
            peer.lock().shown_until = Some(until);
        }
    }

    /// How many allowed addresses there are.
    pub fn addresses(&self) -> usize {
        self.addresses.len()
    }

    pub fn statuses(&self) -> Vec<PeerStatus> {
        self.directory.load().by_id.values().map(|peer| peer.status()).collect()
    }

    fn changing(&self) -> MutexGuard<'_, u32> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn peer(&self, key: PublicKey) -> Result<Arc<Peer>, MeshError> {
        self.directory.load().by_key.get(&key).cloned().ok_or(MeshError::UnknownPeer(key))
    }

    pub fn set_private_key(&self, key: &PrivateKey, outbox: &mut Outbox) -> Result<(), MeshError> {
        let _alone = self.changing();
        let identity = Arc::new(Identity::new(key));
        let mut directory = Directory::clone(&self.directory.load());
        if directory.by_key.contains_key(&identity.public()) {
            return Err(MeshError::OwnKey(identity.public()));
        }
        if self.identity.load().public() == identity.public() {
            return Ok(());
        }
        self.identity.store(identity.clone());
        for peer in directory.by_id.values() {
            let index = directory.free_tunnel();
            directory.by_tunnel.insert(index, peer.clone());
            peer.change_identity(&identity, index, outbox);
        }
        directory.prune();
        self.directory.store(directory.into());
        Ok(())
    }

    pub fn set_peer(&self, config: &PeerConfig, outbox: &mut Outbox) -> Result<(), MeshError> {
        let mut last_id = self.changing();
        let identity = self.identity.load_full();
        let key = config.public_key;
        if key == identity.public() {
            return Err(MeshError::OwnKey(key));
        }
        if self.addresses.len() + config.allowed.len() > MAX_ADDRESSES {
            return Err(MeshError::TooMany { what: "allowed addresses", limit: MAX_ADDRESSES });
        }
        let terms = Terms { preshared_key: config.preshared_key.clone(), keepalive: config.keepalive };
        if let Ok(peer) = self.peer(key) {
            let wanted: std::collections::HashSet<_> = config.allowed.iter().map(ipnet::IpNet::trunc).collect();
            let gone = self.addresses.of(peer.id).into_iter().filter(|prefix| !wanted.contains(prefix));
            let mut steps: Vec<_> = gone.map(|prefix| Step::Release(prefix, peer.id)).collect();
            steps.extend(config.allowed.iter().map(|prefix| Step::Assign(*prefix, peer.id)));
            self.addresses.change(&steps);
            if let Some(endpoint) = config.endpoint {
                peer.lock().lead(endpoint);
            }
            self.change_terms(&identity, &peer, terms, outbox);
            return Ok(());
        }
        let mut directory = Directory::clone(&self.directory.load());
        if directory.by_id.len() >= MAX_PEERS {
            return Err(MeshError::TooMany { what: "peers", limit: MAX_PEERS });
        }
        *last_id += 1;
        let (id, index) = (PeerId(*last_id), directory.free_tunnel());
        let peer = Arc::new(Peer::new(id, key, &identity, terms, index));
        let steps: Vec<_> = config.allowed.iter().map(|prefix| Step::Assign(*prefix, id)).collect();
        self.addresses.change(&steps);
        directory.by_id.insert(id, peer.clone());
        directory.by_key.insert(key, peer.clone());
        directory.by_tunnel.insert(index, peer.clone());
        self.directory.store(directory.into());
        // Called at once, so that the first packet finds a session.
        let mut state = peer.lock();
        state.endpoint = config.endpoint.map(Endpoint::from);
        state.call(outbox);
        Ok(())
    }

    pub fn set_preshared_key(
        &self,
        key: PublicKey,
        preshared_key: Option<&PresharedKey>,
        outbox: &mut Outbox,
    ) -> Result<(), MeshError> {
        let _alone = self.changing();
        let peer = self.peer(key)?;
        let terms = Terms { preshared_key: preshared_key.cloned(), ..peer.lock().terms.clone() };
        self.change_terms(&self.identity.load_full(), &peer, terms, outbox);
        Ok(())
    }

    /// Only by whoever holds `changing`.
    fn change_terms(&self, identity: &Identity, peer: &Arc<Peer>, terms: Terms, outbox: &mut Outbox) {
        if peer.lock().terms == terms {
            return;
        }
        let mut directory = Directory::clone(&self.directory.load());
        // Before the new index, which the peer does not have yet and which would be forgotten as one that has ended.
        directory.prune();
        let index = directory.free_tunnel();
        directory.by_tunnel.insert(index, peer.clone());
        // Known before it is used.
        self.directory.store(directory.into());
        peer.change_terms(identity, terms, index, outbox);
    }

    pub fn set_endpoint(&self, key: PublicKey, endpoint: SocketAddr, outbox: &mut Outbox) -> Result<(), MeshError> {
        let peer = self.peer(key)?;
        let mut state = peer.lock();
        let before = state.endpoint;
        state.lead(endpoint);
        if state.endpoint != before && state.sending().age().is_none() {
            state.call(outbox);
        }
        Ok(())
    }

    pub fn hold_endpoint(
        &self,
        key: PublicKey,
        endpoint: Option<SocketAddr>,
        outbox: &mut Outbox,
    ) -> Result<(), MeshError> {
        let peer = self.peer(key)?;
        let mut state = peer.lock();
        state.held = false;
        if let Some(endpoint) = endpoint {
            state.lead(endpoint);
            state.held = true;
            state.call(outbox);
        }
        Ok(())
    }

    pub fn remove_peer(&self, key: PublicKey) {
        let _alone = self.changing();
        let Ok(peer) = self.peer(key) else { return };
        // Whoever still finds it in an old snapshot sees that it is gone.
        peer.lock().removed = true;
        let steps: Vec<_> = self.addresses.of(peer.id).into_iter().map(|net| Step::Release(net, peer.id)).collect();
        self.addresses.change(&steps);
        let mut directory = Directory::clone(&self.directory.load());
        directory.by_id.remove(&peer.id);
        directory.by_key.remove(&key);
        directory.by_tunnel.retain(|_, other| other.id != peer.id);
        self.directory.store(directory.into());
    }

    pub fn change_addresses(&self, changes: &[AddressChange]) -> Result<(), MeshError> {
        let _alone = self.changing();
        let directory = self.directory.load();
        let step = |change: &AddressChange| {
            let peer = directory.by_key.get(&change.peer()).ok_or(MeshError::UnknownPeer(change.peer()))?;
            Ok(match *change {
                AddressChange::Add { prefix, .. } => Step::Assign(prefix, peer.id),
                AddressChange::Remove { prefix, .. } => Step::Release(prefix, peer.id),
            })
        };
        let steps = changes.iter().map(step).collect::<Result<Vec<_>, MeshError>>()?;
        let added = steps.iter().filter(|step| matches!(step, Step::Assign(..))).count();
        if self.addresses.len() + added > MAX_ADDRESSES {
            return Err(MeshError::TooMany { what: "allowed addresses", limit: MAX_ADDRESSES });
        }
        self.addresses.change(&steps);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
