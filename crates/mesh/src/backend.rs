//! The one face of both backends, and the choice between them.

use std::collections::HashSet;
use std::fmt;

use crate::beside::Beside;
use crate::config::{AddressChange, Desired, PeerConfig, PeerStatus, Settings};
use crate::error::MeshError;
use crate::kernel::{self, Kernel};
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::userspace::{self, Dropped, Userspace};

/// Who encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Kernel,
    Userspace,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// A WireGuard link of this node and its peers. Dropping it deletes the link.
///
/// Changes block for the time of a system call at most, may come from any thread, and leave the
/// sessions of peers whose keys they do not change as they are.
pub trait Backend: Send + Sync {
    fn kind(&self) -> Kind;

    /// The interface's name.
    fn link(&self) -> &str;

    /// The UDP port that was taken.
    fn listen_port(&self) -> u16;

    /// Another identity of this node: every session ends, and peers must know the new key.
    ///
    /// # Errors
    /// If the kernel refuses, or the new key is a peer's.
    fn set_private_key(&self, key: &PrivateKey) -> Result<(), MeshError>;

    /// Adds a peer, or makes it what `peer` says, its addresses included. An endpoint of none leaves
    /// the one that is known.
    ///
    /// # Errors
    /// If the kernel refuses, or a limit would be passed.
    fn set_peer(&self, peer: &PeerConfig) -> Result<(), MeshError>;

    /// From its return on, nothing of this peer is accepted. No error if there is no such peer.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn remove_peer(&self, peer: PublicKey) -> Result<(), MeshError>;

    /// Changes allowed addresses, in order; the more at once, the cheaper.
    ///
    /// # Errors
    /// If one names an unknown peer (then none was made), a limit would be passed, or the kernel refuses.
    fn change_addresses(&self, changes: &[AddressChange]) -> Result<(), MeshError>;

    /// Another shared secret, from the next handshake on. The session in use goes on until that has
    /// succeeded, so that nothing is lost while the other side has not changed yet. In this process the
    /// handshake begins at once, in the kernel when the session's keys are two minutes old.
    ///
    /// # Errors
    /// If there is no such peer, or the kernel refuses.
    fn set_preshared_key(&self, peer: PublicKey, key: Option<&PresharedKey>) -> Result<(), MeshError>;

    /// Where the peer is, until it speaks from elsewhere.
    ///
    /// # Errors
    /// If there is no such peer, or the kernel refuses.
    fn set_endpoint(&self, peer: PublicKey, endpoint: std::net::SocketAddr) -> Result<(), MeshError>;

    /// The peer is there, wherever it speaks from and whatever else is set, until it is let go by none, which
    /// leaves it where it is. In this process keys are then agreed on anew, as the peer may have forgotten the
    /// old ones. The kernel cannot be kept from following the peer: say it again.
    ///
    /// # Errors
    /// If there is no such peer, or the kernel refuses.
    fn hold_endpoint(&self, peer: PublicKey, endpoint: Option<std::net::SocketAddr>) -> Result<(), MeshError>;

    /// What is known of every peer.
    ///
    /// # Errors
    /// If the kernel does not answer, or the data path has stopped.
    fn peers(&self) -> Result<Vec<PeerStatus>, MeshError>;

    /// What was dropped and why, since the link was opened; the kernel does not tell.
    fn dropped(&self) -> Option<Dropped> {
        None
    }

    /// The door beside its sessions; the kernel has none.
    fn beside(&self) -> Option<&dyn Beside> {
        None
    }

    /// Makes the link what `desired` says, peer by peer; peers it does not name are removed first.
    ///
    /// # Errors
    /// If `desired` contradicts itself (then nothing was touched), or one of its steps fails.
    fn apply(&self, desired: &Desired) -> Result<(), MeshError> {
        desired.check()?;
        let wanted: HashSet<_> = desired.peers.iter().map(|peer| peer.public_key).collect();
        for peer in self.peers()? {
            if !wanted.contains(&peer.public_key) {
                self.remove_peer(peer.public_key)?;
            }
        }
        self.set_private_key(&desired.private_key)?;
        desired.peers.iter().try_for_each(|peer| self.set_peer(peer))
    }
}

/// A backend and why it is this one.
pub struct Opened {
    pub backend: Box<dyn Backend>,
    /// For people: a log line, `mesh doctor`.
    pub reason: String,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened({}: {})", self.backend.kind(), self.reason)
    }
}

/// A link that is there and, if it is this process's, carries nothing yet.
pub enum Made {
    Kernel(Kernel),
    Userspace(userspace::Made, String),
}

impl Made {
    /// Begins to carry, with the privileges of the calling thread: all but the right to configure networks
    /// may be gone by now.
    ///
    /// # Errors
    /// If there are too many threads.
    pub fn start(self) -> Result<Opened, MeshError> {
        match self {
            Self::Kernel(kernel) => {
                Ok(Opened { backend: Box::new(kernel), reason: "the kernel has WireGuard".to_owned() })
            }
            Self::Userspace(made, reason) => Ok(Opened { backend: Box::new(made.start()?), reason }),
        }
    }
}

/// Makes the link in the network namespace of the calling thread: by the kernel where it has WireGuard,
/// else in this process.
///
/// # Errors
/// If the name is not free or not one, the port is taken, or the privilege is missing.
pub fn make(settings: &Settings) -> Result<Made, MeshError> {
    settings.check()?;
    match kernel::probe() {
        kernel::Probe::Present => Kernel::open(settings).map(Made::Kernel),
        kernel::Probe::Absent(reason) => Ok(Made::Userspace(Userspace::make(settings)?, reason)),
    }
}

/// [`make`]s the link and begins.
///
/// # Errors
/// As [`make`].
pub fn open(settings: &Settings) -> Result<Opened, MeshError> {
    make(settings)?.start()
}
