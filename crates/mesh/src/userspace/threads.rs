//! The threads that carry. All decisions are the core's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::Timespec;
use tun_rs::{GROTable, SyncDevice, VIRTIO_NET_HDR_LEN};

use super::core::{BATCH, Core, Inbound};
use super::counters::count;
use super::outbox::{Bursts, Outbox};
use super::socket::Underlay;

/// How often the core is told that time has passed.
const TICK: Duration = Duration::from_millis(250);
/// The largest that interface and socket hand over.
const LARGEST: usize = 65_535;
/// Packets that one read of the interface is cut into: 64 KiB of small segments, too.
const CUT: usize = 2 * BATCH;
/// What a packet may grow by on its way to the socket.
const GROWTH: usize = 160;

/// What one thread does, to its end.
type Work = fn(&Shared) -> io::Result<()>;

/// What every thread shares.
struct Shared {
    core: Arc<Core>,
    underlay: Arc<Underlay>,
    device: SyncDevice,
    mtu: usize,
    /// Readable from the moment on that all is to end.
    ending: OwnedFd,
    ended: AtomicBool,
    failure: Mutex<Option<String>>,
}

/// Running threads; dropping ends them and waits for them, and the interface goes with the last.
pub struct Threads {
    shared: Arc<Shared>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    pub fn start(
        link: &str,
        core: &Arc<Core>,
        underlay: &Arc<Underlay>,
        device: SyncDevice,
        mtu: u16,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            core: core.clone(),
            underlay: underlay.clone(),
            device,
            mtu: usize::from(mtu),
            ending: eventfd(0, EventfdFlags::CLOEXEC)?,
            ended: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        let mut threads = Self { shared, running: Vec::new() };
        let works: [(&str, Work); 3] =
            [("out", Shared::carry_out), ("in", Shared::carry_in), ("time", Shared::keep_time)];
        for (name, work) in works {
            let shared = threads.shared.clone();
            let thread = std::thread::Builder::new().name(format!("{link}-{name}"));
            threads.running.push(thread.spawn(move || shared.run(name, work))?);
        }
        Ok(threads)
    }

    /// Writes one packet to the interface.
    pub fn inject(&self, packet: &[u8]) -> bool {
        let mut packets = [[&[0; VIRTIO_NET_HDR_LEN], packet].concat()];
        let taken = self.shared.device.send_multiple(&mut GROTable::new(), &mut packets, VIRTIO_NET_HDR_LEN).is_ok();
        if !taken {
            count(&self.shared.core.counters().not_sent);
        }
        taken
    }

    /// Why the link carries nothing any more, if so.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.end();
        for thread in self.running.drain(..) {
            // One that has panicked has ended too, and was reported by itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Runs one thread's work to its end; a failure ends the others, as half a link helps nobody.
    fn run(&self, name: &str, work: Work) {
        if let Err(error) = work(self) {
            tracing::error!(thread = name, %error, "the mesh has stopped");
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{name}: {error}"));
        }
        self.end();
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        // Fails only when the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.ending, &1_u64.to_ne_bytes());
    }

    fn is_ending(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Waits until there is something to read, or the end.
    fn wait(&self, readable: impl AsFd) -> io::Result<()> {
        let mut both = [PollFd::new(&readable, PollFlags::IN), PollFd::new(&self.ending, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Interface to socket.
    fn carry_out(&self) -> io::Result<()> {
        let mut whole = vec![0; VIRTIO_NET_HDR_LEN + LARGEST];
        let mut packets = vec![vec![0; self.mtu + VIRTIO_NET_HDR_LEN]; CUT];
        let mut sizes = vec![0; CUT];
        let mut bursts = Bursts::new(CUT * (self.mtu + GROWTH));
        while !self.is_ending() {
            let count_read = match self.device.recv_multiple(&mut whole, &mut packets, &mut sizes, 0) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(&self.device)?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A packet that cannot be cut.
                Err(error) if error.raw_os_error().is_none() => {
                    count(&self.core.counters().not_sent);
                    continue;
                }
                // Somebody deleted the interface.
                Err(error) => return Err(error),
            };
            let read = packets.iter().zip(&sizes).take(count_read);
            self.core.outbound(read.map(|(packet, size)| &packet[..*size]), &mut bursts);
            for burst in &bursts.bursts {
                let bytes = &bursts.buffer[burst.range.clone()];
                if self.underlay.send(&burst.to, bytes, burst.segment).is_err() {
                    count(&self.core.counters().not_sent);
                }
            }
        }
        Ok(())
    }

    /// Socket to interface.
    fn carry_in(&self) -> io::Result<()> {
        let mut buffer = vec![0; LARGEST];
        let mut inbound = Inbound::new(VIRTIO_NET_HDR_LEN);
        let mut joining = GROTable::new();
        while !self.is_ending() {
            let received = match self.underlay.receive(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(&*self.underlay)?;
                    continue;
                }
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            };
            self.core.inbound(&buffer[..received.length], received.segment, received.from, &mut inbound);
            send(&self.core, &self.underlay, std::mem::take(&mut inbound.outbox));
            if inbound.count > 0 {
                let packets = &mut inbound.packets[..inbound.count];
                match self.device.send_multiple(&mut joining, packets, VIRTIO_NET_HDR_LEN) {
                    Ok(_) => {}
                    Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Err(error),
                    // The interface is down, or does not take such a packet.
                    Err(_) => count(&self.core.counters().not_sent),
                }
            }
        }
        Ok(())
    }

    fn keep_time(&self) -> io::Result<()> {
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
        while !self.is_ending() {
            match poll(&mut [PollFd::new(&self.ending, PollFlags::IN)], Some(&tick)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let mut outbox = Outbox::default();
            self.core.tick(Instant::now(), &mut outbox);
            send(&self.core, &self.underlay, outbox);
        }
        Ok(())
    }
}

/// Sends each by itself.
pub fn send(core: &Core, underlay: &Underlay, outbox: Outbox) {
    for (to, datagram) in outbox.datagrams {
        if underlay.send(&to, &datagram, datagram.len()).is_err() {
            count(&core.counters().not_sent);
        }
    }
}

/// Whether an error of receiving is of the network, not of the socket.
pub fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, HostUnreachable, Interrupted, InvalidData, NetworkDown, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | Interrupted | InvalidData | NetworkDown | NetworkUnreachable
    )
}
