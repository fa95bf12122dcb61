//! Who is asked when, what is answered, and what follows from it for the mesh. No I/O; time is given.
//!
//! Of each pair the server with the lower key decides, and holds its end of the mesh to the way it chose.
//! The other one follows, as WireGuard sends to where valid packets come from. A relay is asked for with
//! each signal and lives on by that: whoever forgets, or is gone, asks no more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use atoll_mesh::relay::Pair;
use atoll_mesh::signal::{self, Id, KnownWay, MAX_ABOUT, MAX_RELAYED, Seal, Signal};
use atoll_mesh::{PrivateKey, PublicKey};
use atoll_model::NodeName;
use atoll_model::reach::Reachability;

use super::choice::{Quality, Seen, Standing, Way};
use super::peer::{BELIEVED, Peer};
use crate::peers::Wanted;

/// Between two questions to one server; more where there are many, so that all together are not too many.
const EVERY: Duration = Duration::from_millis(100);
const EVERY_FOR_EACH: Duration = Duration::from_millis(4);
/// Where something is not as usual, questions come this many times as often.
const CLOSER: u32 = 4;
/// A server that has been silent for so long is asked less often.
const LONG_SILENT: Duration = Duration::from_secs(10);
const SELDOM: Duration = Duration::from_millis(500);
/// Every so many questions also ask about servers with which all is well.
const ROUTINE: u64 = 5;
/// Addresses at which a silent server is looked for, beside its own.
const MAX_RUMOURS: usize = 3;
/// A relay's view of a server must be fresher than our last word from it by this, lest a server that is
/// gone is looked for over others.
const FRESHER: Duration = Duration::from_millis(300);
/// After a return both ends' old packets may still be under way.
const HOLD_AFTER_RETURN: Duration = Duration::from_secs(3);
/// Sizes of packets are tried while fewer than this part is lost.
const TELLS_SIZES: f32 = 0.5;
/// What IP and UDP take of a packet, as bytes.
const HEADERS_V4: u16 = 28;
const HEADERS_V6: u16 = 48;
/// A relay must offer its port within this.
const OFFERED: Duration = Duration::from_secs(1);

/// Choices are looked at this many times as often as questions are asked.
const DECIDE: u32 = 2;

/// A datagram and where it goes.
pub type Letter = (SocketAddr, Vec<u8>);

/// Where the mesh is to hold a peer; without a place it follows the peer by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    pub place: Option<SocketAddr>,
    /// Another number: even if the place is the same, once more.
    pub attempt: u32,
}

pub struct Core {
    private_key: PrivateKey,
    own: PublicKey,
    /// Of the last question.
    number: u64,
    peers: BTreeMap<Id, Peer>,
    /// The port of each pair that this server relays for.
    relaying: BTreeMap<Pair, u16>,
    /// Whom routine questions were about last.
    turn: usize,
}

impl Core {
    /// `number` is where questions are counted from: none of an earlier start is asked again.
    pub fn new(private_key: PrivateKey, number: u64) -> Self {
        let own = private_key.public();
        Self { private_key, own, number, peers: BTreeMap::new(), relaying: BTreeMap::new(), turn: 0 }
    }

    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// The other servers from now on. Of those that stay, what is known stays.
    pub fn set_peers(&mut self, wanted: &Wanted, now: Instant) {
        let mut before = std::mem::take(&mut self.peers);
        for (key, wanted) in &wanted.peers {
            let id = Id::from(*key);
            let known = before.remove(&id).filter(|peer| peer.key == *key && peer.node == wanted.node);
            let peer = known.or_else(|| {
                let seal = Seal::new(&self.private_key, *key)?;
                Some(Peer::new(*key, wanted.node.clone(), wanted.endpoint, seal, now))
            });
            if let Some(mut peer) = peer {
                peer.home = wanted.endpoint;
                self.peers.insert(id, peer);
            }
        }
    }

    /// Where the mesh sends to now.
    pub fn set_mesh(&mut self, places: &HashMap<PublicKey, SocketAddr>) {
        for peer in self.peers.values_mut() {
            peer.set_mesh(places.get(&peer.key).copied());
        }
    }

    /// Whose packets come through the mesh.
    pub fn set_reach(&mut self, reach: &Reachability) {
        for peer in self.peers.values_mut() {
            peer.carries = reach.paths.get(&peer.node).is_some_and(|path| path.reachable);
        }
    }

    pub fn set_relaying(&mut self, relaying: BTreeMap<Pair, u16>) {
        self.relaying = relaying;
    }

    /// Whether this server decides for the pair with that one.
    pub fn leads(&self, peer: &Peer) -> bool {
        self.own < peer.key
    }

    /// A datagram has come; what is to be answered, to where it came from.
    pub fn heard(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Option<Vec<u8>> {
        let id = signal::sender(datagram)?;
        let peer = self.peers.get_mut(&id)?;
        let signal = peer.seal.open(datagram)?;
        if let Some(number) = signal.answer.filter(|number| peer.answered(number.get(), from, now)) {
            peer.packet_size.answered(number);
            let others = self.peers.keys().copied().collect();
            self.believe(id, &signal, &others, now);
        }
        let peer = self.peers.get_mut(&id)?;
        let confirmed = peer.confirmed(now) == Some(from);
        if confirmed {
            peer.wishes.extend(signal.relay_to.iter().map(|to| (*to, now)));
        }
        let ask = signal.ask.filter(|_| peer.allows(now))?;
        let mut answer = Signal { answer: Some(ask), ..Signal::default() };
        if confirmed {
            answer.ways = self.ways(&signal.about, now);
            answer.relaying = self.offers(id);
        } else {
            // Who speaks from a new place is asked whether it is there.
            answer.ask = self.next_number();
        }
        answer.direct = self.says_direct(id);
        let peer = self.peers.get_mut(&id)?;
        if let Some(number) = answer.ask {
            peer.trial(number.get(), from, now);
        }
        Some(peer.seal.seal(&answer))
    }

    /// What a server says of others. Only in fresh answers: anybody can say it again later.
    fn believe(&mut self, id: Id, signal: &Signal, others: &BTreeSet<Id>, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.said_direct(signal.direct, now);
        let of_peers = |other: &Id| *other != id && others.contains(other);
        peer.views.extend(signal.ways.iter().filter(|way| of_peers(&way.to)).map(|way| (way.to, (*way, now))));
        let ports = signal.relaying.iter().filter(|(to, port)| of_peers(to) && *port != 0);
        peer.ports.extend(ports.map(|(to, port)| (*to, (*port, now))));
    }

    fn next_number(&mut self) -> Option<NonZeroU64> {
        next(&mut self.number)
    }

    fn ways(&self, about: &[Id], now: Instant) -> Vec<KnownWay> {
        about.iter().filter_map(|id| Some(self.peers.get(id)?.known_way(*id, now))).collect()
    }

    /// Our ports for the packets of this server: also for those of a pair whose other one asked for it, as a
    /// translator of addresses lets in only what comes from where something was sent to.
    fn offers(&self, id: Id) -> Vec<(Id, u16)> {
        let Some(peer) = self.peers.get(&id) else { return Vec::new() };
        let offer = |(pair, port): (&Pair, &u16)| {
            let [one, other] = pair.keys();
            let to = if one == peer.key { other } else { one };
            (one == peer.key || other == peer.key).then(|| (Id::from(to), *port))
        };
        self.relaying.iter().filter_map(offer).take(MAX_RELAYED).collect()
    }

    fn says_direct(&self, id: Id) -> bool {
        self.peers.get(&id).is_some_and(|peer| self.leads(peer) && peer.choice.way() == Way::Direct)
    }

    /// Questions that are due.
    pub fn ask(&mut self, now: Instant) -> Vec<Letter> {
        let due: Vec<Id> = self.peers.iter().filter(|(_, peer)| peer.due <= now).map(|(id, _)| *id).collect();
        if due.is_empty() {
            return Vec::new();
        }
        let troubled = self.peers.iter().filter(|(_, peer)| is_troubled(peer, now));
        let troubled: Vec<Id> = troubled.map(|(id, _)| *id).collect();
        due.into_iter().flat_map(|id| self.ask_one(id, &troubled, now)).collect()
    }

    /// When the next ones are due.
    pub fn due(&self) -> Option<Instant> {
        self.peers.values().map(|peer| peer.due).min()
    }

    fn every(&self) -> Duration {
        EVERY.max(EVERY_FOR_EACH * u32::try_from(self.peers.len()).unwrap_or(u32::MAX))
    }

    /// How often [`Self::decide`] is to be called.
    pub fn decide_every(&self) -> Duration {
        self.every() / DECIDE
    }

    fn ask_one(&mut self, id: Id, troubled: &[Id], now: Instant) -> Vec<Letter> {
        let every = self.every();
        let number = self.next_number();
        let rumours = self.rumours(id, now);
        let numbers: Vec<_> = rumours.into_iter().filter_map(|to| Some((to, self.next_number()?))).collect();
        let direct = self.says_direct(id);
        let mut about: Vec<Id> = troubled.iter().filter(|other| **other != id).take(MAX_ABOUT).copied().collect();
        let relay_to = self.relayed_by(id);
        let routine = self.peers.get(&id).is_some_and(|peer| peer.asked % ROUTINE == 0);
        if routine {
            self.turn = self.turn.wrapping_add(MAX_ABOUT);
            let count = self.peers.len().max(1);
            let next = self.peers.keys().cycle().skip(self.turn % count).take(count);
            let next: Vec<Id> = next.filter(|other| **other != id && !about.contains(other)).copied().collect();
            about.extend(next.into_iter().take(MAX_ABOUT - about.len()));
        }
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        peer.asked += 1;
        let standing = peer.measure.standing(now);
        let silent = matches!(standing, Standing::Silent);
        let long = peer.measure.silent(now).is_none_or(|silent| silent >= LONG_SILENT);
        peer.due = now
            + match (silent, peer.measure.is_suspicious(now)) {
                (true, _) if long => SELDOM,
                (false, true) => every / CLOSER,
                _ => every,
            };
        let mut letters = Vec::new();
        if let Some(to) = number.and_then(|number| peer.ask(number.get(), now)) {
            let question = Signal { ask: number, direct, about, relay_to, ..Signal::default() };
            letters.push((to, peer.seal.seal(&question)));
        }
        for (to, number) in numbers {
            peer.trial(number.get(), to, now);
            letters.push((to, peer.seal.seal(&Signal { ask: Some(number), direct, ..Signal::default() })));
        }
        letters.extend(self.ask_sizes(id, direct, standing, now));
        letters
    }

    /// Questions as large as packets may be.
    fn ask_sizes(&mut self, id: Id, direct: bool, standing: Standing, now: Instant) -> Vec<Letter> {
        let Some(peer) = self.peers.get_mut(&id) else { return Vec::new() };
        let answers = matches!(standing, Standing::Answers(quality) if quality.loss < TELLS_SIZES);
        let Some(to) = peer.confirmed(now).filter(|_| answers) else {
            peer.packet_size.interrupt();
            return Vec::new();
        };
        let headers = if to.ip().to_canonical().is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        let sizes = peer.packet_size.ask(now, peer.measure.patience(now), || next(&mut self.number));
        let question = |(number, size): (NonZeroU64, u16)| {
            peer.trial(number.get(), to, now);
            let signal = Signal { ask: Some(number), direct, ..Signal::default() };
            (to, peer.seal.seal_to(&signal, usize::from(size - headers)))
        };
        sizes.into_iter().map(question).collect()
    }

    /// The largest packet that all direct ways carry, as far as is known.
    pub fn largest_packet(&self) -> Option<u16> {
        self.peers.values().filter_map(|peer| peer.packet_size.largest()).min()
    }

    /// Where others see the signals of a server come from that we do not hear.
    fn rumours(&self, id: Id, now: Instant) -> Vec<SocketAddr> {
        if self.peers.get(&id).is_none_or(|peer| peer.confirmed(now).is_some()) {
            return Vec::new();
        }
        let mut rumours: Vec<_> =
            self.peers.values().filter_map(|other| other.view(id, BELIEVED, now)?.signals).collect();
        rumours.sort();
        rumours.dedup();
        rumours.truncate(MAX_RUMOURS);
        rumours
    }

    /// Where others see the mesh's packets of a server come from.
    fn told_place(&self, id: Id, now: Instant) -> Option<SocketAddr> {
        self.peers.values().find_map(|other| other.view(id, BELIEVED, now)?.mesh)
    }

    /// Whom this server relays for us.
    fn relayed_by(&self, relay: Id) -> Vec<Id> {
        let relayed = self.peers.iter().filter(|(_, peer)| self.leads(peer) && peer.choice.way() == Way::Over(relay));
        relayed.map(|(id, _)| *id).take(MAX_RELAYED).collect()
    }

    /// Looks at all that is known, forgets what is old, and chooses for the pairs that this server decides for.
    pub fn decide(&mut self, now: Instant) {
        self.peers.values_mut().for_each(|peer| peer.forget(now));
        let standings: BTreeMap<Id, Standing> =
            self.peers.iter().map(|(id, peer)| (*id, peer.measure.standing(now))).collect();
        let led: Vec<Id> = self.peers.iter().filter(|(_, peer)| self.leads(peer)).map(|(id, _)| *id).collect();
        for id in led {
            let over = self.over(id, &standings, now);
            let fails = self.fails(id, now);
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let before = peer.choice.way();
            let direct = standings.get(&id).copied().unwrap_or(Standing::Unknown);
            peer.choice.decide(&Seen { direct, over: &over, fails }, now);
            let way = peer.choice.way();
            if let Way::Over(relay) = way
                && way != before
                && let Some(relay) = self.peers.get_mut(&relay)
            {
                // It is asked for its port at once.
                relay.due = now;
            }
            let held = self.held(id, now);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.held = held;
            }
        }
    }

    /// The ways to a server over others.
    fn over(&self, id: Id, standings: &BTreeMap<Id, Standing>, now: Instant) -> BTreeMap<Id, Quality> {
        let Some(peer) = self.peers.get(&id) else { return BTreeMap::new() };
        let within = match (standings.get(&id), peer.measure.silent(now)) {
            (Some(Standing::Silent), Some(silent)) => BELIEVED.min(silent.saturating_sub(FRESHER)),
            _ => BELIEVED,
        };
        let others = self.peers.iter().filter(|(relay, _)| **relay != id);
        let over = others.filter_map(|(relay, other)| {
            let Some(Standing::Answers(near)) = standings.get(relay) else { return None };
            let far = other.view(id, within, now).filter(|far| far.loss < 1.0)?;
            Some((*relay, near.then(Quality { round_trip: far.round_trip, loss: far.loss })))
        });
        over.collect()
    }

    /// Whether packets to a server do not arrive, or its relay gives no port.
    fn fails(&self, id: Id, now: Instant) -> bool {
        let Some(peer) = self.peers.get(&id) else { return false };
        let waits = |relay| {
            let long = now.saturating_duration_since(peer.choice.since()) >= OFFERED;
            long && self.port_at(relay, id, now).is_none()
        };
        !peer.carries || matches!(peer.choice.way(), Way::Over(relay) if waits(relay))
    }

    /// Where the mesh is to hold a server.
    fn held(&self, id: Id, now: Instant) -> Option<SocketAddr> {
        let peer = self.peers.get(&id)?;
        match peer.choice.way() {
            // Until the port is known all stays as it is.
            Way::Over(relay) => self.port_at(relay, id, now).or(peer.held),
            Way::Direct => {
                let returned = now.saturating_duration_since(peer.choice.since()) < HOLD_AFTER_RETURN;
                peer.held.filter(|_| returned).map(|_| peer.own_place(self.told_place(id, now)))
            }
        }
    }

    /// Where a relay takes our packets for a server.
    fn port_at(&self, relay: Id, to: Id, now: Instant) -> Option<SocketAddr> {
        let relay = self.peers.get(&relay)?;
        let (port, _) = relay.ports.get(&to)?;
        Some(SocketAddr::new(relay.confirmed(now)?.ip(), *port))
    }

    /// Where the mesh is to hold the servers of the pairs that we decide for.
    pub fn holds(&self) -> impl Iterator<Item = (PublicKey, Hold)> {
        let led = self.peers.values().filter(|peer| self.leads(peer));
        led.map(|peer| (peer.key, Hold { place: peer.held, attempt: peer.choice.attempts() }))
    }

    /// Servers of pairs that they decide for: to which our packets still go over a relay that they have left,
    /// or not yet over the one that they have chosen, while none of theirs arrives.
    pub fn corrections(&mut self, now: Instant) -> Vec<(PublicKey, SocketAddr)> {
        let led: Vec<Id> = self.peers.iter().filter(|(_, peer)| !self.leads(peer)).map(|(id, _)| *id).collect();
        let correction = |id: Id| {
            let told = self.told_place(id, now);
            let offered = self.peers.keys().find_map(|relay| self.port_at(*relay, id, now));
            let peer = self.peers.get_mut(&id)?;
            let place = peer.correction(told, now).or_else(|| peer.detour(offered?, now))?;
            Some((peer.key, place))
        };
        led.into_iter().filter_map(correction).collect()
    }

    /// The pairs that want to be relayed and can be, and where their servers are: each at an address of its
    /// own, so that no relay is relayed to.
    pub fn wanted_relays(&self, now: Instant) -> BTreeMap<Pair, [SocketAddr; 2]> {
        let mut wanted = BTreeMap::new();
        let answers = |peer: &&Peer| matches!(peer.measure.standing(now), Standing::Answers(_));
        for peer in self.peers.values().filter(answers) {
            for other in peer.wishes.keys().filter_map(|id| self.peers.get(id)).filter(answers) {
                if peer.key != other.key {
                    let pair = Pair::new(peer.key, other.key);
                    let at = pair.keys().map(|key| if key == peer.key { peer } else { other }.own_place(None));
                    wanted.insert(pair, at);
                }
            }
        }
        wanted
    }

    /// The server through which packets to this one go; none if they go directly.
    pub fn relay_of(&self, peer: &Peer) -> Option<&NodeName> {
        if self.leads(peer) {
            return match peer.choice.way() {
                Way::Over(relay) => Some(&self.peers.get(&relay)?.node),
                Way::Direct => None,
            };
        }
        let place = peer.mesh_at.filter(|place| !peer.is_at_home(*place))?;
        self.peers.values().find(|other| other.is_at_home(place)).map(|other| &other.node)
    }
}

fn next(number: &mut u64) -> Option<NonZeroU64> {
    *number = number.wrapping_add(1).max(1);
    NonZeroU64::new(*number)
}

/// Whether others are asked about the way to a server with each question.
fn is_troubled(peer: &Peer, now: Instant) -> bool {
    let well = matches!(peer.measure.standing(now), Standing::Answers(quality) if quality.loss == 0.0);
    !well || !peer.carries || peer.choice.way() != Way::Direct || peer.measure.is_suspicious(now)
}

#[cfg(test)]
mod tests;
