//! Wires and hosts that are listened to: whichever attempt's mark comes by is noted.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use super::super::neighbour::inside;
use super::stage::Place;

/// Precedes an attempt's number in its packets.
const MARK: &[u8; 8] = b"ATOLL-IS";
/// ETH_P_ALL
const EVERYTHING: u16 = 3;
/// Protocols of IP whose arrival at a host is noticed: ICMP, IP in IP, TCP, UDP, IPv6 in IP, GRE, ICMPv6.
const PROTOCOLS: [u32; 7] = [1, 4, 6, 17, 41, 47, 58];

/// What an attempt's packets carry.
pub fn mark(attempt: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(MARK);
    bytes[8..].copy_from_slice(&(attempt as u64).to_be_bytes());
    bytes
}

/// The attempts whose marks are in these bytes.
fn marks(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes
        .windows(16)
        .filter(|window| window.starts_with(MARK))
        .map(|window| u64::from_be_bytes(window[8..].try_into().unwrap()) as usize)
}

/// A socket on an interface, for whole frames. Frames that leave here are not heard.
pub fn wire(namespace: &Path, interface: &str) -> OwnedFd {
    let interface = interface.to_owned();
    inside(namespace, move || packet_socket(&interface).unwrap())
}

fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let checked = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let yes: libc::c_int = 1;
    let size = |value: usize| value as libc::socklen_t;
    // SAFETY: the option is an int, alive for the call.
    checked(unsafe {
        let value = (&raw const yes).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, value, size(4))
    })?;
    // SAFETY: all zeroes is a valid address of this kind.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = EVERYTHING.to_be();
    address.sll_ifindex = rustix::net::netdevice::name_to_index(&socket, interface)? as i32;
    // SAFETY: an address of the length that is told, alive for the call.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size(size_of_val(&address))) })?;
    Ok(socket)
}

/// Raw sockets, which get what a host's packet filter lets in.
pub fn host(namespace: &Path) -> Vec<OwnedFd> {
    inside(namespace, || {
        let families = [AddressFamily::INET, AddressFamily::INET6];
        let pairs = families.into_iter().flat_map(|family| PROTOCOLS.map(|protocol| (family, protocol)));
        pairs
            .map(|(family, protocol)| {
                let protocol = std::num::NonZeroU32::new(protocol).map(rustix::net::Protocol::from_raw);
                socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol).unwrap()
            })
            .collect()
    })
}

/// What was seen where.
pub type Seen = BTreeSet<(usize, Place)>;

/// Listens until it is asked to stop.
pub struct Listener {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Listener {
    pub fn start(sockets: Vec<(Place, OwnedFd)>) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let (shared, stopped) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                listen(&sockets, &shared);
            }
        });
        Self { seen, stop, thread }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        Arc::into_inner(self.seen).unwrap().into_inner().unwrap()
    }
}

/// Reads what is there, or waits for a moment.
fn listen(sockets: &[(Place, OwnedFd)], seen: &Mutex<Seen>) {
    let mut polled: Vec<PollFd> = sockets.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::IN)).collect();
    let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    poll(&mut polled, Some(&moment)).unwrap();
    let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
    let mut bytes = [0; 2048];
    for ((place, socket), _) in sockets.iter().zip(ready).filter(|(_, ready)| *ready) {
        // Bounded, so that no socket keeps the others waiting.
        for _ in 0..64 {
            let Ok((length, _)) = recv(socket.as_fd(), &mut bytes, RecvFlags::DONTWAIT) else { break };
            let found: Vec<usize> = marks(&bytes[..length]).collect();
            seen.lock().unwrap().extend(found.into_iter().map(|attempt| (attempt, *place)));
        }
    }
}
