//! Runs the protocol's parts against each other: every message, tick, fault and check is an event
//! with a time. What breaks an invariant ends the run with a sentence.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_catalogue::protocol::barrier::{Book, HubId, Roster};
use atoll_catalogue::protocol::hub::SessionId;
use atoll_catalogue::protocol::message::{Ack, Event, Request};
use atoll_catalogue::protocol::replica::AskAgain;
use atoll_catalogue::protocol::series::Session;
use atoll_catalogue::protocol::targets::SILENCE;
use atoll_catalogue::protocol::{Hub, OwnerLog, PathId, Positions};
use atoll_model::row::Row;
use atoll_model::{NodeName, Owner};

use crate::actors::*;
use crate::checks::History;
use crate::net::{Chance, Clock, Host, Links, Queue};

pub const CONTROLS: usize = 2;
pub const WORKERS: usize = 4;
pub const EDGES: usize = 3;
pub const HOSTS: usize = CONTROLS + WORKERS + EDGES;
/// Faults happen before this moment, none after.
pub const CALM: Duration = Duration::from_secs(24);
pub const END: Duration = Duration::from_secs(44);

const TICK: Duration = Duration::from_millis(100);
pub const HEARTBEAT: Duration = Duration::from_millis(500);
/// A server lets go of a watcher that was not heard for this long.
const SERVER_PATIENCE: Duration = Duration::from_secs(3);

/// Ways to build the thing wrong, to prove that the checks would notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    None,
    AckBeforeSwap,
    IgnoreEpochs,
    NoRecheck,
    LeaseFromArrival,
    OneHubDecides,
}

/// How often things happened that a run should reach.
#[derive(Default, Debug)]
pub struct Report {
    pub delivered: u64,
    pub bounced: u64,
    pub barriers_closed: u64,
    pub hubs_found_gone: u64,
    pub gaps: u64,
    pub epochs_raised: u64,
    pub lost_sequences_found: u64,
}

pub enum What {
    Tick { host: Host, life: u64 },
    Deliver { stream: u64, to_server: bool, wire: Wire },
    Swap { edge: usize, life: u64 },
    Renew { control: usize, life: u64, begun: Duration },
    Act,
    Fault,
    Heal(Host, Host),
    Revive(Host),
    Visit,
    Check,
    Calm,
}

#[derive(Clone)]
pub enum Wire {
    Request(Request),
    Event(Event),
}

struct Stream {
    client: Host,
    client_life: u64,
    server: Host,
    server_life: u64,
    /// A message was lost; nothing after it arrives.
    broken: [bool; 2],
    last_request: Duration,
}

pub struct World {
    pub now: Duration,
    pub bug: Bug,
    pub chance: Chance,
    pub queue: Queue<What>,
    pub links: Links,
    streams: BTreeMap<u64, Stream>,
    pub store: Store,
    pub controls: Vec<Control>,
    pub workers: Vec<Worker>,
    pub edges: Vec<Edge>,
    pub history: History,
    pub report: Report,
    /// Ever-growing: makes every written row different.
    pub stamp: u64,
}

pub fn run(seed: u64, bug: Bug) -> Result<Report, String> {
    let mut world = World::new(seed, bug);
    while let Some((time, what)) = world.queue.pop() {
        if time > END {
            break;
        }
        world.now = time;
        world.step(what)?;
    }
    world.check_convergence()?;
    Ok(world.report)
}

impl World {
    fn new(seed: u64, bug: Bug) -> Self {
        let mut chance = Chance::new(seed);
        let mut life = || Life { up: true, number: 0, clock: Clock::random(&mut chance) };
        let names: Vec<NodeName> = (0..WORKERS).map(|n| format!("node{n}").parse().unwrap()).collect();
        let controls = (0..CONTROLS).map(|n| Control::new(HubId(n as u64), life())).collect();
        let mut workers: Vec<Worker> =
            names.iter().map(|name| Worker::new(name.clone(), 1, life(), Duration::ZERO)).collect();
        let edges = (0..EDGES).map(|n| Edge::new(n, life())).collect();
        for worker in &mut workers {
            worker.wall_offset = chance.micros(50_000_000, 90_000_000);
        }
        let mut world = Self {
            now: Duration::ZERO,
            bug,
            chance,
            queue: Queue::default(),
            links: Links::default(),
            streams: BTreeMap::new(),
            store: Store {
                control: OwnerLog::new(Owner::Control, 1),
                book: Book::default(),
                nodes: BTreeMap::new(),
                barriers: 0,
            },
            controls,
            workers,
            edges,
            history: History::default(),
            report: Report::default(),
            stamp: 0,
        };
        for (n, name) in names.iter().enumerate() {
            world.write_node(node_row(name, REGIONS[n % REGIONS.len()], 1));
        }
        for app in APPS {
            world.write_app(app);
        }
        for host in 0..HOSTS {
            let start = world.chance.micros(0, 300_000);
            world.queue.at(start, What::Tick { host, life: 0 });
        }
        for (first, what) in [(100, What::Act), (1_000, What::Fault), (500, What::Visit), (200, What::Check)] {
            world.queue.at(Duration::from_millis(first), what);
        }
        world.queue.at(CALM, What::Calm);
        world
    }

    fn step(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Tick { host, life } => self.tick(host, life),
            What::Deliver { stream, to_server, wire } => self.deliver(stream, to_server, wire),
            What::Swap { edge, life } => self.swap(edge, life),
            What::Renew { control, life, begun } => self.renew(control, life, begun),
            What::Act => self.act(),
            What::Fault => self.fault(),
            What::Heal(from, to) => self.links.heal(from, to),
            What::Revive(host) => self.revive(host),
            What::Visit => return self.visit(),
            What::Check => return self.check(),
            What::Calm => self.calm(),
        }
        Ok(())
    }

    pub fn life(&self, host: Host) -> &Life {
        match host {
            _ if host < CONTROLS => &self.controls[host].life,
            _ if host < CONTROLS + WORKERS => &self.workers[host - CONTROLS].life,
            _ => &self.edges[host - CONTROLS - WORKERS].life,
        }
    }

    pub fn clock(&self, host: Host) -> Duration {
        self.life(host).clock.at(self.now)
    }

    // The shared store.

    pub fn write_node(&mut self, row: atoll_model::row::NodeRow) {
        self.store.nodes.insert(row.name.clone(), row.clone());
        self.put_control(&Row::Node(row), None);
    }

    pub fn write_app(&mut self, name: &str) {
        self.stamp += 1;
        self.put_control(&app_row(name, self.stamp), Some(self.stamp));
    }

    fn put_control(&mut self, row: &Row, stamp: Option<u64>) {
        let version = self.store.control.put(row).unwrap();
        self.history.wrote(row.key(), Owner::Control, version, stamp);
    }

    /// What a node lost or may not go on with is void from here on.
    pub fn raise_epoch(&mut self, worker: usize) -> u64 {
        let name = self.workers[worker].name.clone();
        let mut row = self.store.nodes[&name].clone();
        row.epoch += 1;
        let epoch = row.epoch;
        self.write_node(row);
        self.report.epochs_raised += 1;
        epoch
    }

    // The network.

    pub fn open_stream(&mut self, client: Host, server: Host, positions: Positions) -> u64 {
        let number = self.streams.len() as u64;
        let stream = Stream {
            client,
            client_life: self.life(client).number,
            server,
            server_life: self.life(server).number,
            broken: [false; 2],
            last_request: self.now,
        };
        self.streams.insert(number, stream);
        self.send(number, true, Wire::Request(Request::Watch(positions)));
        number
    }

    pub fn send(&mut self, number: u64, to_server: bool, wire: Wire) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let (from, to) = if to_server { (stream.client, stream.server) } else { (stream.server, stream.client) };
        if stream.broken[usize::from(to_server)] || !self.links.carries(from, to) {
            stream.broken[usize::from(to_server)] = true;
            return;
        }
        let mut arrives = self.now + self.links.delay(from, to, &mut self.chance);
        if to_server {
            // Requests keep their order, as on any stream; events are treated worse than that.
            arrives = arrives.max(stream.last_request + Duration::from_micros(1));
            stream.last_request = arrives;
        } else if self.now < CALM {
            if self.chance.one_in(15) {
                arrives += self.chance.micros(0, 400_000);
            }
            if self.chance.one_in(15) {
                let again = arrives + self.chance.micros(0, 400_000);
                self.queue.at(again, What::Deliver { stream: number, to_server, wire: wire.clone() });
            }
        }
        self.queue.at(arrives, What::Deliver { stream: number, to_server, wire });
    }

    fn deliver(&mut self, number: u64, to_server: bool, wire: Wire) {
        let stream = &self.streams[&number];
        let (from, to) = if to_server { (stream.client, stream.server) } else { (stream.server, stream.client) };
        let receiver_life = if to_server { stream.server_life } else { stream.client_life };
        if !self.links.carries(from, to) {
            self.streams.get_mut(&number).unwrap().broken[usize::from(to_server)] = true;
            return;
        }
        if !self.life(to).up || self.life(to).number != receiver_life {
            return;
        }
        match wire {
            Wire::Request(request) if to < CONTROLS => self.hub_request(to, number, from, request),
            Wire::Request(request) => self.worker_request(to - CONTROLS, number, request),
            Wire::Event(event) if to < CONTROLS => self.control_event(to, from, number, event),
            Wire::Event(event) => self.edge_event(to - CONTROLS - WORKERS, from, number, event),
        }
    }

    // Every process looks around ten times a second.

    fn tick(&mut self, host: Host, life: u64) {
        if !self.life(host).up || self.life(host).number != life {
            return;
        }
        match host {
            _ if host < CONTROLS => self.control_tick(host),
            _ if host < CONTROLS + WORKERS => self.worker_tick(host - CONTROLS),
            _ => self.edge_tick(host - CONTROLS - WORKERS),
        }
        let next = self.now + TICK + self.chance.micros(0, 10_000);
        self.queue.at(next, What::Tick { host, life });
    }

    // Servers.

    fn worker_request(&mut self, worker: usize, stream: u64, request: Request) {
        let now = self.now;
        let server = &mut self.workers[worker];
        match request {
            Request::Watch(positions) => {
                let own = positions.get(server.log.owner()).copied();
                if own.is_some_and(|own| own.epoch == server.epoch && server.log.is_behind(own)) {
                    self.report.lost_sequences_found += u64::from(!server.needs_epoch);
                    server.needs_epoch = true;
                }
                server.served.insert(stream, Served::new(positions, now));
            }
            Request::Ack(_) => {
                if let Some(served) = server.served.get_mut(&stream) {
                    served.heard_at = now;
                }
            }
        }
        self.push_worker(worker);
    }

    fn hub_request(&mut self, control: usize, stream: u64, from: Host, request: Request) {
        let (now, clock) = (self.now, self.clock(control));
        let edge = self.edges[from - CONTROLS - WORKERS].name.clone();
        let server = &mut self.controls[control];
        match request {
            Request::Watch(positions) => {
                server.hub.open(edge, SessionId(stream), positions.clone());
                server.served.insert(stream, Served::new(positions, now));
            }
            Request::Ack(ack) => {
                let Some(served) = server.served.get_mut(&stream) else { return };
                served.heard_at = now;
                if let Some(grant) = server.hub.acknowledge(&edge, SessionId(stream), ack, clock) {
                    self.send(stream, false, Wire::Event(Event::Lease(grant)));
                }
            }
        }
        self.push_hub(control);
    }

    fn push_worker(&mut self, worker: usize) {
        let now = self.now;
        let Worker { served, log, .. } = &mut self.workers[worker];
        let events = collect_events(served, log, now);
        self.send_all(events);
    }

    fn push_hub(&mut self, control: usize) {
        let now = self.now;
        let Control { served, hub, .. } = &mut self.controls[control];
        let events = collect_events(served, hub.logs(), now);
        self.send_all(events);
    }

    fn send_all(&mut self, events: Vec<(u64, Event)>) {
        for (stream, event) in events {
            self.send(stream, false, Wire::Event(event));
        }
    }

    fn worker_tick(&mut self, worker: usize) {
        let host = CONTROLS + worker;
        let reaches_control = (0..CONTROLS).any(|control| {
            self.controls[control].life.up && self.links.carries(host, control) && self.links.carries(control, host)
        });
        if reaches_control {
            let fenced = self.store.nodes[&self.workers[worker].name].epoch > self.workers[worker].epoch;
            if fenced {
                // Control has given its machines away.
                self.workers[worker].machines.clear();
            }
            if fenced || self.workers[worker].needs_epoch {
                // A new one in any case: the current one may have been used, by a life that this disk
                // knows nothing of.
                let epoch = self.raise_epoch(worker);
                self.workers[worker].epoch = epoch;
                self.workers[worker].needs_epoch = false;
                self.rebuild_log(worker, 0);
            }
        }
        self.push_worker(worker);
    }

    /// Makes the log anew out of what the worker has.
    pub fn rebuild_log(&mut self, worker: usize, last_sequence: u64) {
        let server = &mut self.workers[worker];
        server.log = OwnerLog::resume(Owner::Node(server.name.clone()), server.epoch, last_sequence);
        let began = server.log.log().position();
        self.history.began_again(server.log.owner(), began, &server.machines);
        for row in server.machines.values() {
            let row = Row::Machine(row.clone());
            let version = server.log.put(&row).unwrap();
            self.history.wrote(row.key(), server.log.owner().clone(), version, stamp_of(&row));
        }
    }

    /// A worker changed a machine: `None` is destroyed.
    pub fn publish(&mut self, worker: usize, key: atoll_model::RowKey) {
        let server = &mut self.workers[worker];
        let atoll_model::RowKey::Machine(id) = &key else { return };
        let row = server.machines.get(id).cloned().map(Row::Machine);
        let version = match &row {
            Some(row) => server.log.put(row).unwrap(),
            None => match server.log.delete(&key) {
                Some(version) => version,
                None => return,
            },
        };
        let owner = server.log.owner().clone();
        self.history.wrote(key, owner, version, row.as_ref().and_then(stamp_of));
        self.push_worker(worker);
    }

    // Control.

    fn control_tick(&mut self, control: usize) {
        let (now, clock) = (self.now, self.clock(control));
        for host in CONTROLS..CONTROLS + WORKERS {
            let watched = self.controls[control].watched.get(&host);
            if watched.is_none_or(|watched| now.saturating_sub(watched.heard_at) >= SILENCE) {
                if let Some(old) = self.controls[control].watched.remove(&host) {
                    self.controls[control].hub.close_path(PathId(old.stream));
                }
                let positions = self.controls[control].hub.positions().clone();
                let stream = self.open_stream(control, host, positions);
                self.controls[control].watched.insert(host, Watched { stream, heard_at: now });
            } else {
                self.keep_alive(self.controls[control].watched[&host].stream);
            }
        }
        let me = &mut self.controls[control];
        while let Some(part) = me.from_store.next(&self.store.control) {
            let outcome = me.hub.receive(PathId(u64::MAX), part);
            if outcome.ask_again == AskAgain::AllPaths {
                me.watched.clear();
            }
        }
        if now.saturating_sub(me.renewed_at) >= Duration::from_secs(1) {
            me.renewed_at = now;
            let life = me.life.number;
            let arrives = now + self.chance.micros(1_000, 600_000);
            self.queue.at(arrives, What::Renew { control, life, begun: clock });
        }
        self.barriers(control, clock);
        self.push_hub(control);
    }

    fn keep_alive(&mut self, stream: u64) {
        if self.chance.one_in(5) {
            self.send(stream, true, Wire::Request(Request::Ack(Ack::default())));
        }
    }

    fn renew(&mut self, control: usize, life: u64, begun: Duration) {
        let me = &mut self.controls[control];
        if me.life.number == life {
            // A process that died meanwhile may still have reached the store: then nobody hears of it.
            self.store.book.renew(me.id);
            if me.life.up {
                me.hub.registered(begun, &self.store.book.closed);
            }
        }
    }

    fn barriers(&mut self, control: usize, clock: Duration) {
        use atoll_catalogue::protocol::hub::Standing;
        let me = &mut self.controls[control];
        me.roster.observe(&self.store.book.hubs, clock);
        let gone = me.roster.gone(clock);
        for open in self.store.book.open.clone() {
            match me.hub.stand(&open.target, clock) {
                Standing::Passed => self.store.book.pass(open.id, me.id),
                Standing::Void => {
                    self.store.book.open.retain(|other| other.id != open.id);
                    continue;
                }
                Standing::NotHere | Standing::Waiting(_) | Standing::Refused(_) => {}
            }
            if self.bug == Bug::OneHubDecides
                && let Some(record) = self.store.book.open.iter_mut().find(|record| record.id == open.id)
                && !record.passed.is_empty()
            {
                record.passed = self.store.book.hubs.iter().map(|(hub, _)| *hub).collect();
            }
            if self.store.book.close(open.id, &gone) {
                self.report.barriers_closed += 1;
                self.report.hubs_found_gone += u64::from(!gone.is_empty());
                self.history.closed(open.target);
            }
        }
    }

    fn control_event(&mut self, control: usize, from: Host, stream: u64, event: Event) {
        let now = self.now;
        let me = &mut self.controls[control];
        match me.watched.get_mut(&from).filter(|watched| watched.stream == stream) {
            Some(watched) => watched.heard_at = now,
            None => return,
        }
        let Event::Rows(part) = event else { return };
        let outcome = me.hub.receive(PathId(stream), part);
        self.report.gaps += u64::from(outcome.ask_again != AskAgain::No);
        if outcome.ask_again != AskAgain::No {
            let positions = self.controls[control].hub.positions().clone();
            self.send(stream, true, Wire::Request(Request::Watch(positions)));
        }
        self.push_hub(control);
    }
}

/// What a server sends now to all its watchers. Forgets those that were not heard for long.
fn collect_events(
    served: &mut BTreeMap<u64, Served>,
    logs: &impl atoll_catalogue::protocol::series::Logs,
    now: Duration,
) -> Vec<(u64, Event)> {
    served.retain(|_, served| now.saturating_sub(served.heard_at) < SERVER_PATIENCE);
    let mut events = Vec::new();
    for (stream, served) in served {
        while let Some(part) = served.session.next(logs) {
            events.push((*stream, Event::Rows(part)));
        }
        if now.saturating_sub(served.beat_at) >= HEARTBEAT {
            served.beat_at = now;
            events.push((*stream, Event::Heartbeat));
        }
    }
    events
}

/// What makes a written row different from all others.
pub fn stamp_of(row: &Row) -> Option<u64> {
    match row {
        Row::Machine(row) => Some(row.changed_at_ms),
        Row::App(row) => row.hostnames.first()?.split('.').next()?.strip_prefix('s')?.parse().ok(),
        Row::Node(_) | Row::Certificate(_) | Row::Device(_) | Row::Challenge(_) => None,
    }
}

impl Served {
    fn new(positions: Positions, now: Duration) -> Self {
        Self { session: Session::new(positions), heard_at: now, beat_at: now }
    }
}

impl Control {
    pub fn new(id: HubId, life: Life) -> Self {
        Self {
            life,
            id,
            hub: Hub::default(),
            from_store: Session::default(),
            roster: Roster::default(),
            served: BTreeMap::new(),
            watched: BTreeMap::new(),
            renewed_at: Duration::ZERO,
        }
    }
}
