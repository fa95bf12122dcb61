//! Carries datagrams of WireGuard between two servers that reach this one but not each other, or only badly.
//! To each of the two, a port here is where the other one is: it sends its datagrams there unchanged, so
//! that it does not matter who encrypts. Nothing is opened and nothing is kept.
//!
//! A port is for one pair, and takes datagrams from the addresses of these two only: this is no service for
//! strangers. Which pairs there are, and where the two are, is the caller's to say.

mod sides;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use self::sides::Sides;
use crate::key::PublicKey;
use crate::userspace::{Datagram, Underlay, is_passing};

/// The ports of a server's relay begin this far above its mesh's.
pub const PORTS_ABOVE: u16 = 100;
/// Pairs that are carried at a time, each with a port of its own.
pub const MAX_PAIRS: usize = 256;
/// Bytes of each direction's buffer of a port.
const BUFFER: i32 = 1 << 20;
/// The most that a socket hands over at once.
const LARGEST: usize = 65_535;
/// Bursts of one port before the next one has its turn.
const TURN: usize = 16;

/// Two servers, the lower key first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pair(PublicKey, PublicKey);

impl Pair {
    #[must_use]
    pub fn new(one: PublicKey, other: PublicKey) -> Self {
        if one < other { Self(one, other) } else { Self(other, one) }
    }

    #[must_use]
    pub fn keys(&self) -> [PublicKey; 2] {
        [self.0, self.1]
    }
}

/// What became of datagrams since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Relayed {
    pub bytes: u64,
    /// Bursts from elsewhere, or of something else.
    pub refused: u64,
    /// Bursts that the network did not take.
    pub not_sent: u64,
}

#[derive(Default)]
struct Counters {
    bytes: AtomicU64,
    refused: AtomicU64,
    not_sent: AtomicU64,
}

struct Port {
    socket: Underlay,
    sides: Mutex<Sides>,
}

struct Shared {
    ports: ArcSwap<BTreeMap<Pair, Arc<Port>>>,
    counters: Counters,
    /// Readable when the ports have changed, or at the end.
    changed: OwnedFd,
    ending: AtomicBool,
}

/// A server's relay; dropping it closes all ports.
pub struct Relay {
    shared: Arc<Shared>,
    range: Range<u16>,
    running: Option<JoinHandle<()>>,
}

impl Relay {
    /// Begins without a port, in the network namespace of the calling thread. `mesh` is the port of the
    /// server's own link.
    ///
    /// # Errors
    /// If there are too many threads or descriptors.
    pub fn start(mesh: u16) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            ports: ArcSwap::default(),
            counters: Counters::default(),
            changed: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ending: AtomicBool::new(false),
        });
        let first = mesh.saturating_add(PORTS_ABOVE);
        let work = shared.clone();
        let running = std::thread::Builder::new().name("mesh-relay".to_owned()).spawn(move || work.run())?;
        let range = first..first.saturating_add(MAX_PAIRS as u16);
        Ok(Self { shared, range, running: Some(running) })
    }

    /// Carries for these pairs and no others. For each, where the two are, in the order of its keys; who has
    /// moved on to another port of the same address is followed there. A pair that stays keeps its port.
    /// Says which port each has; pairs beyond the limit have none.
    pub fn set_pairs(&self, pairs: &BTreeMap<Pair, [SocketAddr; 2]>) -> BTreeMap<Pair, u16> {
        let before = self.shared.ports.load_full();
        let mut ports = BTreeMap::clone(&before);
        ports.retain(|pair, _| pairs.contains_key(pair));
        for (pair, at) in pairs {
            match ports.get(pair) {
                Some(port) => port.sides.lock().unwrap_or_else(PoisonError::into_inner).set(*at),
                None if ports.len() < MAX_PAIRS => {
                    let Some(socket) = self.free_port(&ports) else {
                        tracing::warn!("no port is free to relay for two other servers");
                        continue;
                    };
                    ports.insert(*pair, Arc::new(Port { socket, sides: Mutex::new(Sides::new(*at)) }));
                }
                None => {}
            }
        }
        let taken = ports.iter().map(|(pair, port)| (*pair, port.socket.port())).collect();
        if !ports.keys().eq(before.keys()) {
            self.shared.ports.store(Arc::new(ports));
            self.shared.wake();
        }
        taken
    }

    /// The port that was free for longest is not known; any that is free will do.
    fn free_port(&self, ports: &BTreeMap<Pair, Arc<Port>>) -> Option<Underlay> {
        let taken = |port: &u16| ports.values().any(|other| other.socket.port() == *port);
        self.range.clone().filter(|port| !taken(port)).find_map(|port| Underlay::open(port, BUFFER).ok())
    }

    #[must_use]
    pub fn pairs(&self) -> usize {
        self.shared.ports.load().len()
    }

    #[must_use]
    pub fn relayed(&self) -> Relayed {
        let Counters { bytes, refused, not_sent } = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Relayed { bytes: read(bytes), refused: read(refused), not_sent: read(not_sent) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        self.shared.wake();
        if let Some(running) = self.running.take() {
            // One that has panicked has ended too, and was reported by itself.
            let _ = running.join();
        }
    }
}

impl Shared {
    fn wake(&self) {
        // Fails only when the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.changed, &1_u64.to_ne_bytes());
    }

    fn run(&self) {
        let mut buffer = vec![0; LARGEST];
        while !self.ending.load(Ordering::Relaxed) {
            let ports: Vec<_> = self.ports.load().values().cloned().collect();
            let mut waiting: Vec<_> = ports.iter().map(|port| PollFd::new(&port.socket, PollFlags::IN)).collect();
            waiting.push(PollFd::from_borrowed_fd(self.changed.as_fd(), PollFlags::IN));
            match poll(&mut waiting, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "nothing is relayed any more");
                    return;
                }
            }
            let ready: Vec<bool> = waiting.iter().map(|one| !one.revents().is_empty()).collect();
            if ready.last() == Some(&true) {
                // Only empties the counter.
                let _ = rustix::io::read(&self.changed, &mut [0; 8]);
            }
            for (port, _) in ports.iter().zip(&ready).filter(|(_, ready)| **ready) {
                self.carry(port, &mut buffer);
            }
        }
    }

    /// Passes on what waits at one port.
    fn carry(&self, port: &Port, buffer: &mut [u8]) {
        let Counters { bytes, refused, not_sent } = &self.counters;
        for _ in 0..TURN {
            let received = match port.socket.receive(buffer) {
                Ok(received) => received,
                Err(error) if is_passing(&error) => continue,
                Err(_) => return,
            };
            let burst = &buffer[..received.length];
            let whole = burst.chunks(received.segment).all(|datagram| Datagram::of(datagram).is_some());
            let to = port.sides.lock().unwrap_or_else(PoisonError::into_inner).across(received.from, Instant::now());
            let counter = match to.filter(|_| whole && !burst.is_empty()) {
                None => refused,
                Some(to) if port.socket.send(&to, burst, received.segment).is_err() => not_sent,
                Some(_) => {
                    bytes.fetch_add(received.length as u64, Ordering::Relaxed);
                    continue;
                }
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}
