//! One other server: where it is, what was measured of the way to it, what it has said, and which way
//! this pair takes.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use atoll_mesh::PublicKey;
use atoll_mesh::signal::{self, Id, KnownWay, Seal};
use atoll_model::NodeName;

use super::choice::{Choice, Quality, Standing};
use super::measure::Measure;
use super::packet_size::PacketSize;

/// An address from which an answer came within this is the one to ask at.
const CONFIRMED: Duration = Duration::from_secs(3);
/// What another server said is believed for so long.
pub const BELIEVED: Duration = Duration::from_millis(1_500);
/// A wish is renewed many times a second; without being renewed it ends after this.
pub const WISH: Duration = Duration::from_secs(10);
/// Questions whose answers are awaited.
const MAX_TRIALS: usize = 128;
/// Answers in a second, and at once.
const ANSWERS: f64 = 100.0;
/// Between two corrections of where a follower's packets go.
const CORRECT_EVERY: Duration = Duration::from_millis(500);

/// A question, and where it went: only from there an answer to it comes.
struct Trial {
    number: u64,
    to: SocketAddr,
    at: Instant,
}

pub struct Peer {
    pub key: PublicKey,
    pub node: NodeName,
    /// Where it said its mesh listens.
    pub home: SocketAddr,
    pub seal: Seal,
    pub measure: Measure,
    /// Of the direct way.
    pub packet_size: PacketSize,
    /// Where its signals come from.
    at: Option<(SocketAddr, Instant)>,
    trials: VecDeque<Trial>,
    /// What it said of its ways to others.
    pub views: BTreeMap<Id, (KnownWay, Instant)>,
    /// Its ports, each for our packets to a third.
    pub ports: BTreeMap<Id, (u16, Instant)>,
    /// To whom it wants its packets relayed by us.
    pub wishes: BTreeMap<Id, Instant>,
    /// When it is asked next.
    pub due: Instant,
    pub asked: u64,
    allowance: f64,
    allowance_at: Instant,
    /// Where the mesh sends its packets, and where it sent them last while that was an address of its own.
    pub mesh_at: Option<SocketAddr>,
    mesh_direct: Option<SocketAddr>,
    /// Packets of the mesh come through.
    pub carries: bool,
    pub choice: Choice,
    /// Where the mesh is to hold it, if it is.
    pub held: Option<SocketAddr>,
    says_direct: Option<Instant>,
    corrected: Option<Instant>,
}

impl Peer {
    pub fn new(key: PublicKey, node: NodeName, home: SocketAddr, seal: Seal, now: Instant) -> Self {
        Self {
            key,
            node,
            home,
            seal,
            measure: Measure::default(),
            packet_size: PacketSize::default(),
            at: None,
            trials: VecDeque::new(),
            views: BTreeMap::new(),
            ports: BTreeMap::new(),
            wishes: BTreeMap::new(),
            due: now,
            asked: 0,
            allowance: ANSWERS,
            allowance_at: now,
            mesh_at: None,
            mesh_direct: None,
            carries: false,
            choice: Choice::new(now),
            held: None,
            says_direct: None,
            corrected: None,
        }
    }

    /// Where it is to be found by what the catalogue says; none if it listens nowhere.
    fn stated(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.home.ip(), signal::port(self.home.port())?))
    }

    /// Where it answered of late.
    pub fn confirmed(&self, now: Instant) -> Option<SocketAddr> {
        let (at, heard) = self.at?;
        (now.saturating_duration_since(heard) < CONFIRMED).then_some(at)
    }

    /// Notes a question and says where it goes: where it answered last, or else where it should be.
    pub fn ask(&mut self, number: u64, now: Instant) -> Option<SocketAddr> {
        let to = self.confirmed(now).or_else(|| self.stated())?;
        self.measure.ask(number, now);
        self.trial(number, to, now);
        Some(to)
    }

    /// Notes a question to an address where it may be.
    pub fn trial(&mut self, number: u64, to: SocketAddr, now: Instant) {
        if self.trials.len() == MAX_TRIALS {
            self.trials.pop_front();
        }
        self.trials.push_back(Trial { number, to, at: now });
    }

    /// Whether an answer came from where that question went to, for the first time; if so, there it is.
    pub fn answered(&mut self, number: u64, from: SocketAddr, now: Instant) -> bool {
        let Some(index) = self.trials.iter().position(|trial| trial.number == number && trial.to == from) else {
            return false;
        };
        let Some(trial) = self.trials.remove(index) else { return false };
        if !self.measure.answer(number, now) && self.confirmed(now).is_none() {
            // The first word from there is as good a measurement as others.
            self.measure.ask(number, trial.at);
            self.measure.answer(number, now);
        }
        if self.confirmed(now).is_none_or(|at| at == from) {
            self.at = Some((from, now));
        }
        true
    }

    /// Whether one more answer is due to it: whoever repeats its questions from elsewhere gets a few only.
    pub fn allows(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.allowance_at).as_secs_f64();
        (self.allowance, self.allowance_at) = ((self.allowance + passed * ANSWERS).min(ANSWERS), now);
        let allowed = self.allowance >= 1.0;
        if allowed {
            self.allowance -= 1.0;
        }
        allowed
    }

    /// Whether this is an address of its own, not of a relay.
    pub fn is_at_home(&self, place: SocketAddr) -> bool {
        place.ip() == self.home.ip() || self.at.is_some_and(|(at, _)| at.ip() == place.ip())
    }

    /// The mesh sends its packets there.
    pub fn set_mesh(&mut self, place: Option<SocketAddr>) {
        self.mesh_at = place;
        if let Some(place) = place.filter(|place| self.carries && self.is_at_home(*place)) {
            self.mesh_direct = Some(place);
        }
    }

    /// Where its mesh is without a relay. `told` is where others see it.
    pub fn own_place(&self, told: Option<SocketAddr>) -> SocketAddr {
        let Some((at, _)) = self.at else { return self.home };
        let here = |place: &SocketAddr| place.ip() == at.ip();
        let stated = SocketAddr::new(at.ip(), self.home.port());
        self.mesh_direct.filter(here).or(told.filter(here)).unwrap_or(stated)
    }

    /// For a third.
    pub fn known_way(&self, to: Id, now: Instant) -> KnownWay {
        let quality = match self.measure.standing(now) {
            Standing::Answers(quality) => quality,
            Standing::Unknown | Standing::Silent => Quality { round_trip: Duration::MAX, loss: 1.0 },
        };
        KnownWay {
            to,
            silent: self.measure.silent(now).unwrap_or(Duration::MAX),
            round_trip: quality.round_trip,
            loss: quality.loss,
            mesh: self.mesh_direct,
            signals: self.confirmed(now),
        }
    }

    /// Its way to a third, if it heard of it of late.
    pub fn view(&self, of: Id, heard_within: Duration, now: Instant) -> Option<&KnownWay> {
        let (way, got) = self.views.get(&of)?;
        let silent = way.silent.saturating_add(now.saturating_duration_since(*got));
        (silent <= heard_within).then_some(way)
    }

    pub fn said_direct(&mut self, direct: bool, now: Instant) {
        self.says_direct = direct.then_some(now);
    }

    /// Where the mesh should send its packets, if it still sends them over a relay that the other one has
    /// left.
    pub fn correction(&mut self, told: Option<SocketAddr>, now: Instant) -> Option<SocketAddr> {
        let just = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < CORRECT_EVERY);
        let away = self.mesh_at.is_some_and(|place| !self.is_at_home(place));
        if !away || !just(self.says_direct) || just(self.corrected) {
            return None;
        }
        self.corrected = Some(now);
        Some(self.own_place(told))
    }

    /// Where the mesh should send its packets, if none of its own arrives and a relay has a port for them.
    pub fn detour(&mut self, offered: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let just = self.corrected.is_some_and(|at| now.saturating_duration_since(at) < CORRECT_EVERY);
        if self.carries || just || self.mesh_at == Some(offered) {
            return None;
        }
        self.corrected = Some(now);
        Some(offered)
    }

    /// Forgets what is old.
    pub fn forget(&mut self, now: Instant) {
        let within = |at: Instant, limit: Duration| now.saturating_duration_since(at) < limit;
        self.views.retain(|_, (_, got)| within(*got, BELIEVED));
        self.ports.retain(|_, (_, got)| within(*got, WISH));
        self.wishes.retain(|_, at| within(*at, WISH));
        self.trials.retain(|trial| within(trial.at, CONFIRMED));
    }
}
