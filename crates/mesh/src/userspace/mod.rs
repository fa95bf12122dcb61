//! WireGuard in this process: `core` decides, three threads carry. One reads the interface, encrypts
//! and sends; one receives, decrypts and writes to the interface; one looks after time. Both carrying
//! threads handle batches: the kernel hands over up to 64 KiB of one TCP stream at once, cut and joined
//! here and by the socket, which is where the speed comes from.

mod addresses;
mod core;
mod counters;
mod datagram;
mod identity;
mod outbox;
mod peer;
mod socket;
mod threads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tun_rs::{DeviceBuilder, SyncDevice};

pub use self::addresses::{AddressTable, Step};
pub use self::counters::Dropped;

pub(crate) use self::core::{Core, Inbound};
pub(crate) use self::datagram::Datagram;
pub(crate) use self::outbox::{Bursts, Outbox};
pub(crate) use self::peer::Endpoint;
pub(crate) use self::socket::Underlay;
pub(crate) use self::threads::is_passing;

use self::threads::Threads;
use crate::backend::{Backend, Kind};
use crate::beside::{Beside, Taker};
use crate::config::{AddressChange, PeerConfig, PeerStatus, Settings};
use crate::error::MeshError;
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// Bytes of each direction's buffer of the socket. A burst of joined datagrams is 64 KiB; fewer than some
/// dozens of them would be dropped while another thread has the processor.
const BUFFER: i32 = 4 << 20;

/// A link that was made and carries nothing yet. The threads that will read foreign packets begin with
/// [`Self::start`], and have the privileges of the thread that calls it.
pub struct Made {
    device: SyncDevice,
    underlay: Arc<Underlay>,
    settings: Settings,
}

impl Made {
    /// Begins to carry.
    ///
    /// # Errors
    /// If there are too many threads.
    pub fn start(self) -> Result<Userspace, MeshError> {
        let Self { device, underlay, settings: Settings { link, mtu, private_key, .. } } = self;
        let core = Arc::new(Core::new(&private_key));
        let start = |source| MeshError::Start { link: link.clone(), source };
        let threads = Threads::start(&link, &core, &underlay, device, mtu).map_err(start)?;
        Ok(Userspace { link, core, underlay, threads })
    }
}

/// The backend of this process.
pub struct Userspace {
    link: String,
    core: Arc<Core>,
    underlay: Arc<Underlay>,
    threads: Threads,
}

impl Userspace {
    /// Makes the link and begins, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the name or the port is taken, or the privilege is missing.
    pub fn open(settings: &Settings) -> Result<Self, MeshError> {
        Self::make(settings)?.start()
    }

    /// Only makes the link, which is what takes privileges.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn make(settings: &Settings) -> Result<Made, MeshError> {
        settings.check()?;
        let link = settings.link.clone();
        let listen = |source| MeshError::Listen { port: settings.listen_port, source };
        let underlay = Arc::new(Underlay::open(settings.listen_port, BUFFER).map_err(listen)?);
        let make = |source| MeshError::Link { link: link.clone(), source };
        let device = DeviceBuilder::new().name(&link).mtu(settings.mtu).offload(true).build_sync().map_err(make)?;
        device.set_nonblocking(true).map_err(make)?;
        Ok(Made { device, underlay, settings: settings.clone() })
    }

    /// Allowed addresses of all peers together.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.core.addresses()
    }

    /// Makes a change and sends what follows from it.
    fn change<T>(&self, change: impl FnOnce(&mut Outbox) -> Result<T, MeshError>) -> Result<T, MeshError> {
        let mut outbox = Outbox::default();
        let changed = change(&mut outbox);
        threads::send(&self.core, &self.underlay, outbox);
        changed
    }
}

impl Backend for Userspace {
    fn kind(&self) -> Kind {
        Kind::Userspace
    }

    fn link(&self) -> &str {
        &self.link
    }

    fn listen_port(&self) -> u16 {
        self.underlay.port()
    }

    fn set_private_key(&self, key: &PrivateKey) -> Result<(), MeshError> {
        self.change(|outbox| self.core.set_private_key(key, outbox))
    }

    fn set_peer(&self, peer: &PeerConfig) -> Result<(), MeshError> {
        self.change(|outbox| self.core.set_peer(peer, outbox))
    }

    fn remove_peer(&self, peer: PublicKey) -> Result<(), MeshError> {
        self.core.remove_peer(peer);
        Ok(())
    }

    fn change_addresses(&self, changes: &[AddressChange]) -> Result<(), MeshError> {
        self.core.change_addresses(changes)
    }

    fn set_preshared_key(&self, peer: PublicKey, key: Option<&PresharedKey>) -> Result<(), MeshError> {
        self.change(|outbox| self.core.set_preshared_key(peer, key, outbox))
    }

    fn set_endpoint(&self, peer: PublicKey, endpoint: SocketAddr) -> Result<(), MeshError> {
        self.change(|outbox| self.core.set_endpoint(peer, endpoint, outbox))
    }

    fn beside(&self) -> Option<&dyn Beside> {
        Some(self)
    }

    fn hold_endpoint(&self, peer: PublicKey, endpoint: Option<SocketAddr>) -> Result<(), MeshError> {
        self.change(|outbox| self.core.hold_endpoint(peer, endpoint, outbox))
    }

    fn dropped(&self) -> Option<Dropped> {
        Some(self.core.counters().read())
    }

    fn peers(&self) -> Result<Vec<PeerStatus>, MeshError> {
        match self.threads.failure() {
            Some(reason) => Err(MeshError::Stopped { link: self.link.clone(), reason }),
            None => Ok(self.core.statuses()),
        }
    }
}

impl Beside for Userspace {
    fn show_to(&self, taker: Taker) {
        self.core.show_to(taker);
    }

    fn show_until(&self, peer: PublicKey, until: Instant) {
        self.core.show_until(peer, until);
    }

    fn inject(&self, peer: PublicKey, packet: &[u8]) -> bool {
        self.core.allows(peer, packet) && self.threads.inject(packet)
    }
}
