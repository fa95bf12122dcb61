//! Resumption of the mesh: carries what `atoll_resume` decides, between the link's door and a UDP port of its
//! own. Packets that wait for a session go out early under a ticket; what comes early from others goes into
//! the link as if it had come through it. `docs/protocols/mesh-resumption.md` says why this is safe.
//!
//! Whatever fails here is left to the session that is being agreed on meanwhile.

mod exchange;
mod file;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

use atoll_catalogue::watch::{Clock, boot_clock};
use atoll_mesh::{Backend, Beside, PublicKey};
use atoll_net::peers::Wanted;
use atoll_resume::{Grant, Initiator, LARGEST_DATAGRAM, Party, Refused, Responder, Ticket, answered, opened};
use atoll_signals::metrics::{Samples, Source, names};

pub use self::exchange::{Asking, TicketService};
use self::file::TicketFile;

/// Packets on their way from the link to the port; more than one resumption may carry are not worth keeping.
const QUEUE: usize = 256;

/// A packet that the link has shown, and whom it is for.
type Shown = (PublicKey, Vec<u8>);

/// This server as either side.
pub struct Resumption {
    backend: Arc<dyn Backend>,
    socket: UdpSocket,
    port: u16,
    ends: Mutex<Ends>,
    file: TicketFile,
    clock: Clock,
    counters: Counters,
}

struct Ends {
    initiator: Initiator,
    responder: Responder,
    /// Whether the tickets are others than on disk.
    changed: bool,
}

#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    taken: AtomicU64,
    answered: AtomicU64,
    returned: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    /// Tickets on disk.
    kept: AtomicU64,
}

impl Resumption {
    /// Begins with the tickets that an earlier process kept in `folder`; before the link has peers, so that
    /// its first packets are seen. None where the link has no door: the kernel's has not.
    ///
    /// # Errors
    /// If the port is taken, or the tickets' key cannot be read.
    fn start(backend: &Arc<dyn Backend>, own: Party, port: u16, folder: &Path) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(door) = backend.beside() else { return Ok(None) };
        let socket = listen(port).with_context(|| {
            format!("cannot listen on UDP port {port}; another one can be given with --mesh-resume-port")
        })?;
        let port = socket.local_addr()?.port();
        let clock = boot_clock();
        let file = TicketFile::open(folder)?;
        let mut initiator = Initiator::new(own.clone());
        let tickets = file.load(clock());
        tracing::debug!(tickets = tickets.len(), port, "connections may be opened before sessions");
        tickets.into_iter().for_each(|ticket| initiator.keep(ticket));
        let ends = Ends { initiator, responder: Responder::new(own), changed: true };
        let resumption = Arc::new(Self {
            backend: backend.clone(),
            socket,
            port,
            ends: Mutex::new(ends),
            file,
            clock,
            counters: Counters::default(),
        });
        let (show, shown) = sync_channel::<Shown>(QUEUE);
        door.show_to(Box::new(move |peer, packet| {
            if opened(packet).is_some() || answered(packet).is_some() {
                // Where the queue is full, the packet waits for the session like any other.
                show.try_send((peer, packet.to_vec())).ok();
            }
        }));
        let (outward, inward) = (resumption.clone(), resumption.clone());
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("resume-out").spawn(move || outward.carry_out(&shown)).context("cannot send early packets")?;
        thread("resume-in").spawn(move || inward.carry_in()).context("cannot take early packets")?;
        Ok(Some(resumption))
    }

    /// [`Self::start`]; where that fails, the mesh is no worse than without.
    pub fn start_if_possible(backend: &Arc<dyn Backend>, own: Party, port: u16, folder: &Path) -> Option<Arc<Self>> {
        Self::start(backend, own, port, folder).unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "connections wait for sessions of the mesh after a restart");
            None
        })
    }

    /// Held for the sealing of one packet at most.
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the link is gone.
    fn carry_out(&self, shown: &Receiver<Shown>) {
        for (peer, packet) in shown {
            let now = (self.clock)();
            let (counter, sealed) = {
                let mut ends = self.ends();
                if opened(&packet).is_some() {
                    let sealed = ends.initiator.send(&peer.0, &packet, now, rand::random);
                    ends.changed |= sealed.is_some();
                    (&self.counters.sent, sealed)
                } else {
                    (&self.counters.answered, ends.responder.answer(&peer.0, &packet, now))
                }
            };
            let Some((to, datagram)) = sealed else { continue };
            match self.socket.send_to(&datagram, self.reachable(to)) {
                Ok(_) => drop(counter.fetch_add(1, Ordering::Relaxed)),
                Err(error) => tracing::debug!(%error, %to, "an early packet was not sent"),
            }
        }
    }

    fn carry_in(&self) {
        // One byte more than any of ours has, so that longer ones show.
        let mut buffer = [0; LARGEST_DATAGRAM + 1];
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if is_passing(&error) => continue,
                Err(error) => {
                    tracing::error!(%error, "no early packets are taken any more");
                    return;
                }
            };
            if let Err(refused) = self.take(&buffer[..length], from) {
                tracing::debug!(%from, %refused, "an early packet was refused");
                if let Some(at) = Refused::ALL.iter().position(|known| *known == refused) {
                    self.counters.refused[at].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// One datagram, for whichever side it is.
    fn take(&self, datagram: &[u8], from: SocketAddr) -> Result<(), Refused> {
        let now = (self.clock)();
        let Some(door) = self.backend.beside() else { return Ok(()) };
        let early = self.ends().responder.receive(datagram, from, now);
        match early {
            Ok(early) => {
                let peer = PublicKey(early.from);
                // Its host knows no session with us, whatever we believe.
                door.show_until(peer, Instant::now() + early.until.saturating_sub(now));
                self.inject(door, peer, &early.packet, &self.counters.taken);
                Ok(())
            }
            // None of that direction.
            Err(Refused::Malformed) => {
                let answer = self.ends().initiator.receive(datagram, now)?;
                self.inject(door, PublicKey(answer.from), &answer.packet, &self.counters.returned);
                Ok(())
            }
            Err(refused) => Err(refused),
        }
    }

    /// What the link does not take, it counts.
    fn inject(&self, door: &dyn Beside, peer: PublicKey, packet: &[u8], counter: &AtomicU64) {
        if door.inject(peer, packet) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As our socket's family writes it.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match (self.socket.local_addr(), to.ip()) {
            (Ok(SocketAddr::V6(_)), IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
            _ => to,
        }
    }

    /// A ticket for a server whose identity was proven.
    fn issue(&self, to: &Party) -> Grant {
        let mut random = [0; 48];
        rand::fill(&mut random);
        self.ends().responder.issue(to, (self.clock)(), &random)
    }

    fn keep(&self, ticket: Ticket) {
        let mut ends = self.ends();
        ends.initiator.keep(ticket);
        ends.changed = true;
    }

    /// Forgets what is over and whoever is no peer; keeps on disk what there is. Blocks on the disk.
    fn tend(&self, peers: &Wanted) {
        let now = (self.clock)();
        let is_peer = |key: &[u8; 32]| peers.peers.contains_key(&PublicKey(*key));
        // Right after the start it is not known yet who is.
        let may_be_peer = |key: &[u8; 32]| peers.peers.is_empty() || is_peer(key);
        let tickets: Option<Vec<Ticket>> = {
            let mut ends = self.ends();
            let before = ends.initiator.tickets().count();
            ends.initiator.retain(may_be_peer, now);
            ends.responder.retain(is_peer, now);
            let changed = std::mem::take(&mut ends.changed) || ends.initiator.tickets().count() != before;
            changed.then(|| ends.initiator.tickets().cloned().collect())
        };
        let Some(tickets) = tickets else { return };
        match self.file.save(&tickets) {
            Ok(()) => self.counters.kept.store(tickets.len() as u64, Ordering::Relaxed),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "cannot keep tickets for the next start"),
        }
    }
}

impl Source for Resumption {
    fn collect(&self, samples: &mut Samples) {
        let Counters { sent, taken, answered, returned, refused, kept } = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (way, counter) in [("sent", sent), ("taken", taken), ("answered", answered), ("returned", returned)] {
            samples.counter(&names::MESH_RESUMED, &[way], read(counter));
        }
        for (reason, counter) in Refused::ALL.iter().zip(refused) {
            samples.counter(&names::MESH_RESUMPTION_REFUSED, &[reason.as_str()], read(counter));
        }
        samples.gauge(&names::MESH_TICKETS, &[], read(kept) as f64);
    }
}

/// Both families on one port; 0 takes any.
fn listen(port: u16) -> io::Result<UdpSocket> {
    let (socket, any): (_, IpAddr) = match Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, Ipv6Addr::UNSPECIFIED.into())
        }
        // A kernel without IPv6.
        Err(_) => (Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?, Ipv4Addr::UNSPECIFIED.into()),
    };
    socket.bind(&SocketAddr::new(any, port).into())?;
    Ok(socket.into())
}

/// Whether an error of receiving is of the network, not of the socket.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | Interrupted | NetworkDown | NetworkUnreachable)
}
