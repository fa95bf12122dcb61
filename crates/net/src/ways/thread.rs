//! The thread that does what the core decides: signals, the mesh's endpoints, the relay's ports.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use atoll_mesh::relay::{Relay, Relayed};
use atoll_mesh::signal::{self, Post};
use atoll_mesh::{Backend, Kind, PrivateKey, PublicKey, kernel, link_mtu};
use atoll_model::NodeName;
use atoll_model::reach::Reachability;

use super::choice::{Quality, Standing};
use super::core::{Core, Hold};
use super::peer::Peer;
use crate::peers::Wanted;

/// How often the mesh is asked where its peers are: often while that matters, seldom else, as the kernel
/// tells all addresses with it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_SELDOM: Duration = Duration::from_secs(5);
/// The longest wait, after which the thread looks whether it is to end, and who the peers are.
const BREATH: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum WaysError {
    #[error("no UDP port is {} above the mesh's port {mesh}", signal::PORT_ABOVE)]
    NoPort { mesh: u16 },
    #[error("listen for other servers' signals on UDP port {port}")]
    Listen {
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("start the thread of ways")]
    Start {
        #[source]
        source: io::Error,
    },
}

/// The way to one server.
#[derive(Clone, PartialEq, Debug)]
pub struct Course {
    /// Who relays; none on the direct way.
    pub over: Option<NodeName>,
    /// Since when and why; none where the other server decides.
    pub chosen: Option<(SystemTime, &'static str)>,
    /// What is measured of the direct way; none if that does not answer.
    pub direct: Option<Quality>,
    /// The largest packet that the direct way carries, as bytes; none until that was found out.
    pub largest_packet: Option<u16>,
}

pub type Courses = HashMap<PublicKey, Course>;

/// Measures, chooses and relays until it is dropped.
pub struct Ways {
    courses: Arc<ArcSwap<Courses>>,
    relay: Arc<Relay>,
    mtu: Arc<AtomicU16>,
    ending: Arc<AtomicBool>,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl Ways {
    /// Begins in the network namespace of the calling thread. `mtu` is what the link was made with; `peers` are
    /// the servers of the mesh, with or without addresses; `reach` says whose packets come through.
    ///
    /// # Errors
    /// If a port is taken, or there are too many threads.
    pub fn start(
        backend: Arc<dyn Backend>,
        mtu: u16,
        private_key: PrivateKey,
        peers: Arc<ArcSwap<Wanted>>,
        reach: Arc<ArcSwap<Reachability>>,
    ) -> Result<Self, WaysError> {
        let mesh = backend.listen_port();
        let port = signal::port(mesh).ok_or(WaysError::NoPort { mesh })?;
        let post = Post::open(port).map_err(|source| WaysError::Listen { port, source })?;
        let start = |source| WaysError::Start { source };
        let relay = Arc::new(Relay::start(mesh).map_err(start)?);
        let (courses, ending) = (Arc::<ArcSwap<Courses>>::default(), Arc::<AtomicBool>::default());
        let (made_with, mtu) = (mtu, Arc::new(AtomicU16::new(mtu)));
        let work = Work {
            core: Core::new(private_key, rand::random()),
            post,
            backend,
            relay: relay.clone(),
            peers,
            reach,
            known: Arc::default(),
            held: HashMap::new(),
            courses: courses.clone(),
            made_with,
            mtu: mtu.clone(),
            ending: ending.clone(),
        };
        let running = std::thread::Builder::new().name("net-ways".to_owned());
        let running = running.spawn(move || work.run()).map_err(start)?;
        Ok(Self { courses, relay, mtu, ending, running: Mutex::new(Some(running)) })
    }

    /// The ways to all servers, as they were at most half a second ago.
    #[must_use]
    pub fn courses(&self) -> Arc<Courses> {
        self.courses.load_full()
    }

    /// The largest packet that the link takes, so that every direct way carries it.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Pairs of others that this server relays for, and what it relayed since its start.
    #[must_use]
    pub fn relayed(&self) -> (usize, Relayed) {
        (self.relay.pairs(), self.relay.relayed())
    }
}

impl Drop for Ways {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            // One that has panicked has ended too, and was reported by itself.
            let _ = running.join();
        }
    }
}

struct Work {
    core: Core,
    post: Post,
    backend: Arc<dyn Backend>,
    relay: Arc<Relay>,
    peers: Arc<ArcSwap<Wanted>>,
    reach: Arc<ArcSwap<Reachability>>,
    /// The peers that the core has.
    known: Arc<Wanted>,
    /// What the mesh was told last.
    held: HashMap<PublicKey, Hold>,
    courses: Arc<ArcSwap<Courses>>,
    /// The link's MTU at first, which is its largest.
    made_with: u16,
    mtu: Arc<AtomicU16>,
    ending: Arc<AtomicBool>,
}

impl Work {
    fn run(mut self) {
        let (mut look, mut decide) = (Instant::now(), Instant::now());
        while !self.ending.load(Ordering::Relaxed) {
            let now = Instant::now();
            let peers = self.peers.load_full();
            if !Arc::ptr_eq(&peers, &self.known) {
                self.core.set_peers(&peers, now);
                self.known = peers;
            }
            if now >= look {
                look = now + self.look();
            }
            if now >= decide {
                decide = now + self.core.decide_every();
                self.core.set_reach(&self.reach.load());
                self.core.decide(now);
                self.act(now);
            }
            for (to, datagram) in self.core.ask(now) {
                self.post.send(to, &datagram);
            }
            let next = self.core.due().map_or(now + BREATH, |due| due.min(now + BREATH)).min(decide);
            if let Err(error) = self.listen(next.saturating_duration_since(Instant::now())) {
                tracing::error!(%error, "ways to other servers are not measured any more");
                return;
            }
        }
    }

    /// Answers what comes within this time.
    fn listen(&mut self, wait: Duration) -> io::Result<()> {
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.post, PollFlags::IN)], Some(&wait)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let core = &mut self.core;
        self.post.receive(|from, datagram| core.heard(from, datagram, Instant::now()))
    }

    /// Looks where the mesh sends to, and says when to look again.
    fn look(&mut self) -> Duration {
        match self.backend.peers() {
            Ok(statuses) => {
                let places = statuses.iter().filter_map(|status| Some((status.public_key, status.endpoint?))).collect();
                self.core.set_mesh(&places);
                self.hold_on(&places);
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the mesh does not say where its peers are");
            }
        }
        self.fit();
        self.tell();
        let calm = self.held.values().all(|hold| hold.place.is_none()) && self.relay.pairs() == 0;
        if calm && self.backend.kind() == Kind::Kernel { LOOK_SELDOM } else { LOOK_EVERY }
    }

    /// Lets the link take no packet that some way does not carry. Who sent a larger one is told by the kernel.
    fn fit(&self) {
        let fitting = self.core.largest_packet().map_or(self.made_with, |packet| link_mtu(packet).min(self.made_with));
        if fitting == self.mtu.load(Ordering::Relaxed) {
            return;
        }
        match kernel::set_mtu(self.backend.link(), fitting) {
            Ok(()) => {
                tracing::info!(mtu = fitting, "the mesh takes packets of another size");
                self.mtu.store(fitting, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "packets may be larger than ways carry");
            }
        }
    }

    /// Says again where peers are held that were followed away.
    fn hold_on(&self, places: &HashMap<PublicKey, SocketAddr>) {
        for (key, hold) in &self.held {
            if hold.place.is_some() && places.get(key) != hold.place.as_ref() {
                self.hold(*key, hold.place);
            }
        }
    }

    fn hold(&self, key: PublicKey, place: Option<SocketAddr>) -> bool {
        let held = self.backend.hold_endpoint(key, place).inspect_err(|error| {
            tracing::warn!(peer = %key, error = error as &dyn std::error::Error, "the mesh does not take another way");
        });
        held.is_ok()
    }

    /// Tells mesh and relay what follows from the core's choices.
    fn act(&mut self, now: Instant) {
        let holds: HashMap<PublicKey, Hold> = self.core.holds().collect();
        let mut held = HashMap::new();
        for (key, hold) in holds {
            let before = self.held.get(&key);
            let changed = before.map_or(hold.place.is_some(), |before| *before != hold);
            let was_held = before.is_some_and(|before| before.place.is_some());
            if !changed || (hold.place.is_none() && !was_held) || self.hold(key, hold.place) {
                held.insert(key, hold);
            }
        }
        // Who is gone from the peers is gone from the mesh.
        self.held = held;
        for (key, place) in self.core.corrections(now) {
            if let Err(error) = self.backend.set_endpoint(key, place) {
                tracing::warn!(peer = %key, error = &error as &dyn std::error::Error, "the mesh does not take another way");
            }
        }
        let relaying = self.relay.set_pairs(&self.core.wanted_relays(now));
        self.core.set_relaying(relaying);
    }

    fn tell(&self) {
        let before = self.courses.load();
        let course = |peer: &Peer| {
            let course = self.course(peer);
            let known = before.get(&peer.key);
            if known.map_or(course.over.is_some(), |known| known.over != course.over) {
                let over = course.over.as_ref().map_or("nobody", |over| over.as_str());
                let reason = course.chosen.map_or("the other server's choice", |(_, reason)| reason);
                tracing::info!(node = %peer.node, over, reason, "packets take another way");
            }
            (peer.key, course)
        };
        let courses = self.core.peers().map(course).collect();
        self.courses.store(Arc::new(courses));
    }

    fn course(&self, peer: &Peer) -> Course {
        let now = Instant::now();
        let since = || SystemTime::now().checked_sub(now.saturating_duration_since(peer.choice.since()));
        Course {
            over: self.core.relay_of(peer).cloned(),
            chosen: self.core.leads(peer).then(since).flatten().map(|since| (since, peer.choice.reason().as_str())),
            direct: match peer.measure.standing(now) {
                Standing::Answers(quality) => Some(quality),
                Standing::Unknown | Standing::Silent => None,
            },
            largest_packet: peer.packet_size.largest(),
        }
    }
}
