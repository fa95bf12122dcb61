//! Servers in a world without sockets: datagrams take their time, get lost, and come from where translators
//! say. Its mesh is as WireGuard is: who is not held sends to where packets last came from.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::net::IpAddr;

use atoll_model::reach::Path;
use proptest::prelude::*;

use super::*;
use crate::peers::Wanted;

const MESH: u16 = 51820;
/// The mesh's own probes.
const PROBE: Duration = Duration::from_millis(500);
/// How long they may be silent.
const REACH: Duration = Duration::from_millis(2_200);
const STEP: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
struct Link {
    delay: Duration,
    loss: f64,
    cut: bool,
    /// The longest datagram that it carries.
    longest: usize,
}

const WELL: Link = Link { delay: Duration::from_millis(5), loss: 0.0, cut: false, longest: 1472 };

enum Load {
    Signal(Vec<u8>),
    /// A packet of the mesh: who sent it.
    Packet(usize),
}

struct Server {
    core: Core,
    key: PublicKey,
    decide: Instant,
    probe: Instant,
    /// Where the mesh sends to, by peer, and since when packets of it came.
    places: HashMap<PublicKey, SocketAddr>,
    holds: HashMap<PublicKey, Hold>,
    heard: HashMap<PublicKey, Instant>,
    /// Ports of its relay.
    ports: BTreeMap<Pair, u16>,
    sides: BTreeMap<Pair, [SocketAddr; 2]>,
    changes: usize,
}

struct World {
    now: Instant,
    servers: Vec<Server>,
    links: HashMap<(usize, usize), Link>,
    /// When, a number to keep order, whereto, wherefrom.
    queue: BinaryHeap<(Reverse<Instant>, Reverse<u64>, usize)>,
    letters: HashMap<usize, (SocketAddr, SocketAddr, Load)>,
    sent: usize,
    random: u64,
    /// Servers behind translators of addresses, which give each of their ports one of their own, and let in
    /// only what comes from where something was sent to.
    behind: HashSet<usize>,
    passages: HashSet<(usize, u16, SocketAddr)>,
}

fn ip(server: usize) -> IpAddr {
    [192, 0, 2, u8::try_from(server).unwrap()].into()
}

/// The address of a server's translator, and what it adds to ports.
fn outside(server: usize) -> IpAddr {
    [198, 51, 100, u8::try_from(server).unwrap()].into()
}

const TRANSLATED: u16 = 10_000;

fn number_of(ip: IpAddr) -> usize {
    match ip {
        IpAddr::V4(ip) => ip.octets()[3].into(),
        IpAddr::V6(_) => panic!("there is none"),
    }
}

impl World {
    fn new(count: usize) -> Self {
        Self::with_some_behind(count, &[])
    }

    fn with_some_behind(count: usize, behind: &[usize]) -> Self {
        let now = Instant::now();
        // The lower the number, the lower the key, so that it is known who decides.
        let mut keys: Vec<_> = (0..count).map(|number| PrivateKey::from_bytes([number as u8 + 1; 32])).collect();
        keys.sort_by_key(PrivateKey::public);
        let everybody = |own: usize| Wanted {
            peers: keys
                .iter()
                .enumerate()
                .filter(|(number, _)| *number != own)
                .map(|(number, key)| {
                    let (node, region) = (name(number), "ams".parse().unwrap());
                    let ip = if behind.contains(&number) { outside(number) } else { ip(number) };
                    (key.public(), crate::peers::Peer { node, region, endpoint: (ip, MESH).into(), rpc: None })
                })
                .collect(),
            ..Wanted::default()
        };
        let server = |(number, key): (usize, &PrivateKey)| {
            let mut core = Core::new(key.clone(), number as u64 * 1_000_000_000);
            let peers = everybody(number);
            core.set_peers(&peers, now);
            Server {
                core,
                key: key.public(),
                decide: now,
                probe: now,
                places: peers.peers.iter().map(|(key, peer)| (*key, peer.endpoint)).collect(),
                holds: HashMap::new(),
                heard: HashMap::new(),
                ports: BTreeMap::new(),
                sides: BTreeMap::new(),
                changes: 0,
            }
        };
        let servers = keys.iter().enumerate().map(server).collect();
        let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        let links = pairs.map(|pair| (pair, WELL)).collect();
        Self {
            now,
            servers,
            links,
            queue: BinaryHeap::new(),
            letters: HashMap::new(),
            sent: 0,
            random: 1,
            behind: behind.iter().copied().collect(),
            passages: HashSet::new(),
        }
    }

    fn set(&mut self, a: usize, b: usize, link: Link) {
        self.links.insert((a, b), link);
        self.links.insert((b, a), link);
    }

    /// From 0 to 1; the same in each run.
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as f64 / f64::from(1_u32 << 31)
    }

    fn send(&mut self, mut from: SocketAddr, to: SocketAddr, load: Load) {
        let sender = number_of(from.ip());
        if self.behind.contains(&sender) {
            self.passages.insert((sender, from.port(), to));
            from = (outside(sender), from.port() + TRANSLATED).into();
        }
        let Some(link) = self.links.get(&(number_of(from.ip()), number_of(to.ip()))).copied() else { return };
        let length = if let Load::Signal(bytes) = &load { bytes.len() } else { 0 };
        if link.cut || length > link.longest || self.chance() < link.loss {
            return;
        }
        self.sent += 1;
        self.letters.insert(self.sent, (to, from, load));
        self.queue.push((Reverse(self.now + link.delay), Reverse(self.sent as u64), self.sent));
    }

    fn arrive(&mut self, mut to: SocketAddr, from: SocketAddr, load: Load) {
        let (now, number) = (self.now, number_of(to.ip()));
        if self.behind.contains(&number) {
            to.set_port(to.port().wrapping_sub(TRANSLATED));
            if to.ip() != outside(number) || !self.passages.contains(&(number, to.port(), from)) {
                return;
            }
            to.set_ip(ip(number));
        }
        let server = &mut self.servers[number];
        match load {
            Load::Signal(bytes) => {
                if let Some(answer) = server.core.heard(from, &bytes, now) {
                    self.send(to, from, Load::Signal(answer));
                }
            }
            Load::Packet(sender) if to.port() == MESH => {
                let key = self.servers[sender].key;
                let server = &mut self.servers[number];
                if server.holds.get(&key).is_none_or(|hold| hold.place.is_none()) {
                    server.places.insert(key, from);
                }
                server.heard.insert(key, now);
            }
            Load::Packet(sender) => {
                let pair = server.ports.iter().find(|(_, port)| **port == to.port()).map(|(pair, _)| *pair);
                let Some(sides) = pair.and_then(|pair| server.sides.get(&pair).copied()) else { return };
                let Some(side) = sides.iter().position(|side| *side == from) else { return };
                self.send(to, sides[1 - side], Load::Packet(sender));
            }
        }
    }

    fn act(&mut self, number: usize) {
        let now = self.now;
        let server = &mut self.servers[number];
        if now >= server.decide {
            server.decide = now + server.core.decide_every();
            let reach = server.core.peers().map(|peer| {
                let heard = server.heard.get(&peer.key).is_some_and(|heard| now - *heard < REACH);
                (peer.node.clone(), Path { round_trip: Duration::ZERO, loss: 0.0, reachable: heard })
            });
            let reach = Reachability { paths: reach.collect() };
            server.core.set_reach(&reach);
            server.core.set_mesh(&server.places);
            server.core.decide(now);
            let holds: HashMap<_, _> = server.core.holds().collect();
            for (key, hold) in &holds {
                let before = server.holds.get(key).and_then(|hold| hold.place);
                if let Some(place) = hold.place {
                    server.changes += usize::from(before != hold.place);
                    server.places.insert(*key, place);
                }
            }
            server.holds = holds;
            for (key, place) in server.core.corrections(now) {
                server.places.insert(key, place);
            }
            server.sides = server.core.wanted_relays(now);
            server.ports = server.sides.keys().enumerate().map(|(at, pair)| (*pair, 52_000 + at as u16)).collect();
            let ports = server.ports.clone();
            server.core.set_relaying(ports);
        }
        for (to, bytes) in self.servers[number].core.ask(now) {
            self.send((ip(number), MESH + 2).into(), to, Load::Signal(bytes));
        }
        if now >= self.servers[number].probe {
            self.servers[number].probe = now + PROBE;
            for place in self.servers[number].places.values().copied().collect::<Vec<_>>() {
                self.send((ip(number), MESH).into(), place, Load::Packet(number));
            }
        }
    }

    /// Lets time pass until something is the case; how long that took.
    fn until(&mut self, limit: Duration, mut wanted: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let began = self.now;
        while !wanted(self) {
            if self.now >= began + limit {
                return None;
            }
            self.now += STEP;
            while let Some((Reverse(at), _, letter)) = self.queue.peek().copied() {
                if at > self.now {
                    break;
                }
                self.queue.pop();
                if let Some((to, from, load)) = self.letters.remove(&letter) {
                    self.arrive(to, from, load);
                }
            }
            (0..self.servers.len()).for_each(|number| self.act(number));
        }
        Some(self.now - began)
    }

    fn pass(&mut self, time: Duration) {
        assert_eq!(self.until(time, |_| false), None);
    }

    /// The address to which a server's mesh sends what is for another one.
    fn place(&self, from: usize, to: usize) -> SocketAddr {
        self.servers[from].places[&self.servers[to].key]
    }

    fn is_direct(&self, a: usize, b: usize) -> bool {
        self.place(a, b) == (ip(b), MESH).into() && self.place(b, a) == (ip(a), MESH).into()
    }

    fn is_over(&self, a: usize, relay: usize, b: usize) -> bool {
        self.place(a, b).ip() == ip(relay) && self.place(b, a).ip() == ip(relay)
    }

    fn is_heard(&self, a: usize, b: usize) -> bool {
        let heard = |a: usize, b: usize| self.servers[a].heard.get(&self.servers[b].key).copied();
        let late = |at: Option<Instant>| at.is_none_or(|at| self.now - at >= REACH);
        !late(heard(a, b)) && !late(heard(b, a))
    }
}

fn name(number: usize) -> NodeName {
    format!("node-{number}").parse().unwrap()
}

#[test]
fn a_bad_link_is_gone_around_within_five_seconds_and_taken_again() {
    let slow = Link { delay: WELL.delay + Duration::from_millis(100), ..WELL };
    let lossy = Link { loss: 0.10, ..WELL };
    let cut = Link { cut: true, ..WELL };
    for (bad, seed) in [slow, lossy, cut].into_iter().flat_map(|bad| (0..10).map(move |seed| (bad, seed))) {
        let mut world = World::new(3);
        world.random = seed;
        world.pass(Duration::from_secs(5));
        assert!(world.is_direct(0, 1) && world.is_direct(0, 2) && world.is_direct(1, 2));
        world.set(0, 1, bad);
        let left = world.until(LIMIT, |world| world.is_over(0, 2, 1));
        assert!(left.is_some(), "loss {}, delay {:?}: not left", bad.loss, bad.delay);
        world.pass(Duration::from_secs(30));
        assert!(world.is_over(0, 2, 1) && world.is_heard(0, 1));
        world.set(0, 1, WELL);
        let back = world.until(LIMIT, |world| world.is_direct(0, 1));
        assert!(back.is_some(), "loss {}, delay {:?}: not back", bad.loss, bad.delay);
        world.pass(Duration::from_secs(30));
        assert!(world.is_direct(0, 1));
        let ports: usize = world.servers.iter().map(|server| server.ports.len()).sum();
        assert_eq!(ports, 0, "nothing is relayed any more");
        let changes = world.servers[0].changes;
        assert!(changes <= 4, "{changes} changes");
    }
}

#[test]
fn a_narrow_way_limits_packets_in_its_direction_alone() {
    let mut world = World::new(3);
    world.links.insert((0, 1), Link { longest: 1400 - 28, ..WELL });
    let fits = |world: &World| {
        let largest: Vec<_> = world.servers.iter().map(|server| server.core.largest_packet()).collect();
        largest == [Some(1400), Some(1500), Some(1500)]
    };
    assert!(world.until(LIMIT, fits).is_some());
    world.set(0, 1, Link { cut: true, ..WELL });
    world.pass(Duration::from_secs(60));
    assert!(fits(&world), "silence tells nothing");
}

#[test]
fn servers_behind_translators_meet_over_a_third_one_and_then_directly() {
    let mut world = World::with_some_behind(3, &[0, 1]);
    assert!(world.until(2 * LIMIT, |world| world.is_heard(0, 1)).is_some(), "not over the third one");
    let at = |server| SocketAddr::from((outside(server), MESH + TRANSLATED));
    let met = |world: &World| world.place(0, 1) == at(1) && world.place(1, 0) == at(0);
    assert!(world.until(Duration::from_secs(30), met).is_some(), "no passage was opened");
    world.pass(Duration::from_secs(60));
    assert!(met(&world) && world.is_heard(0, 1));
}

#[test]
fn who_is_behind_a_translator_is_reached_from_the_open() {
    let mut world = World::with_some_behind(3, &[1]);
    world.pass(Duration::from_secs(5));
    assert!((0..3).all(|a| (0..a).all(|b| world.is_heard(a, b))));
    assert_eq!(world.servers.iter().map(|server| server.changes).sum::<usize>(), 0);
}

#[test]
fn a_relay_that_dies_is_replaced_and_one_that_forgets_is_asked_again() {
    let mut world = World::new(4);
    let cut = Link { cut: true, ..WELL };
    world.set(0, 1, cut);
    world.set(0, 3, Link { delay: Duration::from_millis(30), ..WELL });
    assert!(world.until(LIMIT, |world| world.is_over(0, 2, 1)).is_some());
    world.set(0, 2, cut);
    world.set(1, 2, cut);
    world.set(2, 3, cut);
    assert!(world.until(LIMIT, |world| world.is_over(0, 3, 1)).is_some());
    world.pass(Duration::from_secs(3));
    assert!(world.is_heard(0, 1));
}

#[test]
fn who_decides_and_who_follows_may_start_again_while_relayed() {
    for restarted in 0..3 {
        let mut world = World::new(3);
        world.set(0, 1, Link { cut: true, ..WELL });
        assert!(world.until(LIMIT, |world| world.is_over(0, 2, 1)).is_some());
        world.pass(Duration::from_secs(10));
        let fresh = World::new(3).servers.remove(restarted);
        world.servers[restarted] = Server { decide: world.now, probe: world.now, ..fresh };
        // None of its questions is one of before.
        world.servers[restarted].core.number += 1_000_000;
        assert!(world.until(LIMIT, |world| world.is_over(0, 2, 1) && world.is_heard(0, 1)).is_some(), "{restarted}");
    }
}

#[test]
fn a_server_that_is_down_is_not_looked_for_over_others() {
    let mut world = World::new(4);
    world.pass(Duration::from_secs(5));
    for other in 0..3 {
        world.set(3, other, Link { cut: true, ..WELL });
    }
    world.pass(Duration::from_secs(60));
    let changes: usize = world.servers.iter().map(|server| server.changes).sum();
    assert_eq!(changes, 0);
    for other in 0..3 {
        world.set(3, other, WELL);
    }
    world.pass(Duration::from_secs(5));
    assert!((0..3).all(|other| world.is_direct(3, other) && world.is_heard(3, other)));
}

#[test]
fn datagrams_that_are_said_again_change_nothing() {
    let mut world = World::new(3);
    world.pass(Duration::from_secs(2));
    // All that one says, once more and from elsewhere.
    let said = world.servers[1].core.ask(world.now + Duration::from_secs(1));
    for (to, bytes) in said {
        let elsewhere = SocketAddr::from(([192, 0, 2, 2], 9));
        let server = &mut world.servers[number_of(to.ip())];
        let answer = server.core.heard(elsewhere, &bytes, world.now).expect("who is at a new place is answered");
        assert!(answer.len() <= bytes.len(), "{} bytes to a stranger for {}", answer.len(), bytes.len());
    }
    world.pass(Duration::from_secs(3));
    assert!(world.is_direct(0, 1) && world.is_direct(1, 2));
    let strangers = [vec![], vec![0; 60], b"ats1".repeat(30)];
    assert!(
        strangers
            .iter()
            .all(|bytes| world.servers[0].core.heard(([192, 0, 2, 1], 1).into(), bytes, world.now).is_none())
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3))]

    /// Whatever the links do: no relay is relayed to, every pair that some way connects is connected in the
    /// end, and then nothing changes any more.
    #[test]
    fn whatever_happens_all_that_can_reach_each_other_do(
        faults in proptest::collection::vec((0..4_usize, 0..4_usize, 0..3_u8, 0..8_u64), 0..12),
        seed: u64,
    ) {
        let mut world = World::new(4);
        world.random = seed;
        for (a, b, fault, seconds) in faults {
            let link = match fault {
                0 => WELL,
                1 => Link { cut: true, ..WELL },
                _ => Link { delay: Duration::from_millis(80), ..WELL },
            };
            world.set(a, b, link);
            world.pass(Duration::from_secs(seconds));
            for server in &world.servers {
                for sides in server.sides.values() {
                    prop_assert!(sides.iter().all(|side| side.port() == MESH), "a relay of a relay: {sides:?}");
                }
            }
        }
        // Longer than any patience.
        world.pass(Duration::from_secs(150));
        for (a, b) in (0..4).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let cut = |a: usize, b: usize| world.links[&(a, b)].cut;
            let connected = !cut(a, b) || (0..4).any(|r| r != a && r != b && !cut(a, r) && !cut(r, b));
            prop_assert_eq!(world.is_heard(a, b), connected, "{} and {}", a, b);
        }
        let changes: Vec<_> = world.servers.iter().map(|server| server.changes).collect();
        world.pass(Duration::from_secs(50));
        prop_assert_eq!(world.servers.iter().map(|server| server.changes).collect::<Vec<_>>(), changes);
    }
}
