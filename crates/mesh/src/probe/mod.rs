//! How well this node reaches the others: each is asked twice a second through the mesh, and answers.
//! What comes of it is one immutable snapshot for whoever chooses ways: proxy, DNS, anycast.

mod track;
mod wire;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atoll_model::NodeName;
use atoll_model::reach::Reachability;
use socket2::{Domain, Socket, Type};

use self::track::{EVERY, Track};
use self::wire::{LENGTH, Probe};

/// Where every node answers, UDP inside the mesh.
pub const PORT: u16 = 4284;

/// How often the thread looks whether it is to end.
const BREATH: Duration = Duration::from_millis(100);

/// Addresses of the other nodes in the mesh.
pub type Targets = HashMap<NodeName, IpAddr>;

struct Shared {
    socket: UdpSocket,
    port: u16,
    targets: Mutex<Arc<Targets>>,
    reachability: Arc<ArcSwap<Reachability>>,
    ending: AtomicBool,
}

/// Probes and answers until it is dropped.
pub struct Prober {
    shared: Arc<Shared>,
    running: Option<JoinHandle<()>>,
}

impl Prober {
    /// Begins in the network namespace of the calling thread, at `own` on the port that all nodes share.
    /// `reachability` is replaced twice a second. The address may be given to the host later.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn start(own: SocketAddr, reachability: Arc<ArcSwap<Reachability>>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(own), Type::DGRAM, None)?;
        // The kernel takes its time to take up an address that was just added.
        if own.is_ipv6() {
            socket.set_freebind_v6(true)?
        } else {
            socket.set_freebind_v4(true)?
        }
        socket.bind(&own.into())?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(BREATH))?;
        let shared = Arc::new(Shared {
            socket,
            port: own.port(),
            targets: Mutex::default(),
            reachability,
            ending: AtomicBool::new(false),
        });
        let work = shared.clone();
        let running = std::thread::Builder::new().name("mesh-probe".to_owned()).spawn(move || work.run())?;
        Ok(Self { shared, running: Some(running) })
    }

    /// Whom to ask from now on; who stays keeps what is known of it.
    pub fn set_targets(&self, targets: Targets) {
        *self.shared.targets.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(targets);
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.take() {
            // One that has panicked has ended too, and was reported by itself.
            let _ = running.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut tracks: HashMap<NodeName, Track> = HashMap::new();
        // Numbers of an earlier start are not ours: its answers may still come.
        let mut number: u64 = rand::random();
        let mut due = Instant::now();
        while !self.ending.load(Ordering::Relaxed) {
            let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let now = Instant::now();
            if now >= due {
                due = now + EVERY;
                tracks.retain(|node, _| targets.contains_key(node));
                for (node, address) in &*targets {
                    number = number.wrapping_add(1);
                    tracks.entry(node.clone()).or_default().ask(number, now);
                    self.send(Probe::Question(number), (*address, self.port).into());
                }
                let known = |(node, track): (&NodeName, &mut Track)| Some((node.clone(), track.path(now)?));
                let paths = tracks.iter_mut().filter_map(known).collect();
                self.reachability.store(Arc::new(Reachability { paths }));
            }
            self.hear(&targets, &mut tracks);
        }
    }

    /// Takes one datagram, if one comes soon. Only nodes are answered.
    fn hear(&self, targets: &Targets, tracks: &mut HashMap<NodeName, Track>) {
        let mut buffer = [0; LENGTH + 1];
        let Ok((length, from)) = self.socket.recv_from(&mut buffer) else { return };
        let Some((node, _)) = targets.iter().find(|(_, address)| **address == from.ip()) else { return };
        match Probe::of(&buffer[..length]) {
            Some(Probe::Question(number)) => self.send(Probe::Answer(number), from),
            Some(Probe::Answer(number)) => {
                if let Some(track) = tracks.get_mut(node) {
                    track.answer(number, Instant::now());
                }
            }
            None => {}
        }
    }

    fn send(&self, probe: Probe, to: SocketAddr) {
        // One that cannot be sent gets no answer, which is what is measured.
        let _ = self.socket.send_to(&probe.bytes(), to);
    }
}
