//! WireGuard of the kernel, told what to do by netlink.

mod netlink;
mod plan;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use netlink_packet_wireguard::{WireguardAttribute, WireguardPeer, WireguardPeerAttribute};

use self::netlink::{Links, WireGuard};
use self::plan::Owners;
use crate::backend::{Backend, Kind};
use crate::config::{AddressChange, MAX_ADDRESSES, MAX_PEERS, PeerConfig, PeerStatus, Settings};
use crate::error::MeshError;
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// Whether the kernel can do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    Present,
    /// And why not.
    Absent(String),
}

/// Makes a link of kind wireguard in the network namespace of the calling thread, and deletes it again.
#[must_use]
pub fn probe() -> Probe {
    // Nobody else has this name: it is the calling thread's.
    let name = format!("wgp{}", rustix::thread::gettid().as_raw_nonzero());
    match Links::open().and_then(|mut links| links.add(&name, 1420).and_then(|()| links.delete(&name))) {
        Ok(()) => Probe::Present,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Probe::Absent("the kernel has no WireGuard module".to_owned())
        }
        Err(error) => Probe::Absent(format!("the kernel makes no WireGuard link: {error}")),
    }
}

/// Deletes a link that a process left which could not delete it any more; no error if there is none. Only for
/// names that are one's own.
///
/// # Errors
/// If the kernel refuses.
pub fn delete_leftover(link: &str) -> Result<(), MeshError> {
    match Links::open().and_then(|mut links| links.delete(link)) {
        Err(source) if source.raw_os_error() != Some(libc::ENODEV) => {
            Err(MeshError::Link { link: link.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The largest packet that a link of either backend takes from now on; no more than it was made with.
///
/// # Errors
/// If there is no such link in the network namespace of the calling thread, or the privilege is missing.
pub fn set_mtu(link: &str, mtu: u16) -> Result<(), MeshError> {
    let set = Links::open().and_then(|mut links| links.set_mtu(link, mtu));
    set.map_err(|source| MeshError::Kernel { operation: "set the MTU", link: link.to_owned(), source })
}

/// Addresses that nobody may hold before it is made anew. Removing a peer takes the kernel milliseconds,
/// so this is not done for each.
const NOBODYS: usize = 4_000;

/// What the lock guards: the kernel takes one change at a time anyway.
struct Inner {
    links: Links,
    wireguard: WireGuard,
    own: PublicKey,
    /// Whose each address is: the kernel cannot be asked for one.
    owners: Owners,
    peers: HashSet<PublicKey>,
    /// Where peers are said to be for as long as somebody says so.
    held: HashMap<PublicKey, SocketAddr>,
    /// Has the addresses that were taken from peers. Its private key is forgotten, so nobody is it.
    nobody: PublicKey,
    nobodys: usize,
}

/// The backend of the kernel.
pub struct Kernel {
    link: String,
    listen_port: u16,
    inner: Mutex<Inner>,
}

impl Kernel {
    /// Makes the link in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the kernel cannot, the name or the port is taken, or the privilege is missing.
    pub fn open(settings: &Settings) -> Result<Self, MeshError> {
        settings.check()?;
        let link = settings.link.clone();
        let make = |source| MeshError::Link { link: link.clone(), source };
        let mut links = Links::open().map_err(make)?;
        links.add(&link, settings.mtu).map_err(make)?;
        match Self::configure(&mut links, settings) {
            Ok((wireguard, listen_port)) => {
                let own = settings.private_key.public();
                let nobody = PrivateKey::generate().public();
                let (owners, peers, held) = Default::default();
                let inner = Inner { links, wireguard, own, owners, peers, held, nobody, nobodys: 0 };
                Ok(Self { link, listen_port, inner: Mutex::new(inner) })
            }
            Err(error) => {
                // The first error is the one to tell; a link that stays is told by the next attempt.
                let _ = links.delete(&link);
                Err(error)
            }
        }
    }

    fn configure(links: &mut Links, settings: &Settings) -> Result<(WireGuard, u16), MeshError> {
        let link = &settings.link;
        let make = |source| MeshError::Link { link: link.clone(), source };
        let listen = |source| MeshError::Listen { port: settings.listen_port, source };
        let mut wireguard = WireGuard::open(link).map_err(make)?;
        let key = WireguardAttribute::PrivateKey(*settings.private_key.expose());
        wireguard.set(vec![key, WireguardAttribute::ListenPort(settings.listen_port)]).map_err(make)?;
        // Only now the port is taken.
        links.set_up(link).map_err(listen)?;
        let attributes = wireguard.get().map_err(make)?;
        let port = attributes.iter().find_map(|attribute| match attribute {
            WireguardAttribute::ListenPort(port) => Some(*port),
            _ => None,
        });
        Ok((wireguard, port.unwrap_or(settings.listen_port)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> MeshError {
        move |source| MeshError::Kernel { operation, link: self.link.clone(), source }
    }
}

impl Inner {
    fn send(&mut self, peers: Vec<WireguardPeer>) -> io::Result<()> {
        plan::messages(peers)
            .into_iter()
            .try_for_each(|peers| self.wireguard.set(vec![WireguardAttribute::Peers(peers)]))
    }

    fn change(&mut self, changes: &[AddressChange]) -> io::Result<()> {
        // Should the kernel refuse one, the books say more than it does; to say it again does no harm.
        let peers = plan::change(&mut self.owners, changes, self.nobody);
        self.send(peers)?;
        self.nobodys += changes.iter().filter(|change| matches!(change, AddressChange::Remove { .. })).count();
        if self.nobodys > NOBODYS {
            self.send(vec![plan::remove(self.nobody)])?;
            (self.nobody, self.nobodys) = (PrivateKey::generate().public(), 0);
        }
        Ok(())
    }

    fn set_endpoint(&mut self, peer: PublicKey, endpoint: SocketAddr) -> io::Result<()> {
        self.send(vec![plan::update(peer, WireguardPeerAttribute::Endpoint(endpoint))])
    }

    fn known(&self, peer: PublicKey) -> Result<(), MeshError> {
        if self.peers.contains(&peer) { Ok(()) } else { Err(MeshError::UnknownPeer(peer)) }
    }
}

impl Backend for Kernel {
    fn kind(&self) -> Kind {
        Kind::Kernel
    }

    fn link(&self) -> &str {
        &self.link
    }

    fn listen_port(&self) -> u16 {
        self.listen_port
    }

    fn set_private_key(&self, key: &PrivateKey) -> Result<(), MeshError> {
        let mut inner = self.lock();
        let own = key.public();
        // The kernel would silently remove the peer.
        if inner.peers.contains(&own) {
            return Err(MeshError::OwnKey(own));
        }
        if inner.own != own {
            let attributes = vec![WireguardAttribute::PrivateKey(*key.expose())];
            inner.wireguard.set(attributes).map_err(self.failed("change the key"))?;
            inner.own = own;
        }
        Ok(())
    }

    fn set_peer(&self, peer: &PeerConfig) -> Result<(), MeshError> {
        let mut inner = self.lock();
        let key = peer.public_key;
        if key == inner.own {
            return Err(MeshError::OwnKey(key));
        }
        if inner.owners.len() + peer.allowed.len() > MAX_ADDRESSES {
            return Err(MeshError::TooMany { what: "allowed addresses", limit: MAX_ADDRESSES });
        }
        if inner.peers.len() >= MAX_PEERS && !inner.peers.contains(&key) {
            return Err(MeshError::TooMany { what: "peers", limit: MAX_PEERS });
        }
        if inner.peers.contains(&key) {
            let changes = plan::replace(&inner.owners, key, &peer.allowed);
            let endpoint = inner.held.get(&key).copied().or(peer.endpoint);
            let terms = vec![WireguardPeer(plan::terms(&PeerConfig { endpoint, ..peer.clone() }))];
            return inner.send(terms).and_then(|()| inner.change(&changes)).map_err(self.failed("set a peer"));
        }
        inner.send(plan::add(peer)).map_err(self.failed("set a peer"))?;
        inner.peers.insert(key);
        inner.owners.extend(peer.allowed.iter().map(|prefix| (prefix.trunc(), key)));
        Ok(())
    }

    fn remove_peer(&self, peer: PublicKey) -> Result<(), MeshError> {
        let mut inner = self.lock();
        inner.send(vec![plan::remove(peer)]).map_err(self.failed("remove a peer"))?;
        inner.peers.remove(&peer);
        inner.held.remove(&peer);
        inner.owners.retain(|_, owner| *owner != peer);
        Ok(())
    }

    fn change_addresses(&self, changes: &[AddressChange]) -> Result<(), MeshError> {
        let mut inner = self.lock();
        changes.iter().try_for_each(|change| inner.known(change.peer()))?;
        let added = changes.iter().filter(|change| matches!(change, AddressChange::Add { .. })).count();
        if inner.owners.len() + added > MAX_ADDRESSES {
            return Err(MeshError::TooMany { what: "allowed addresses", limit: MAX_ADDRESSES });
        }
        inner.change(changes).map_err(self.failed("change addresses"))
    }

    fn set_preshared_key(&self, peer: PublicKey, key: Option<&PresharedKey>) -> Result<(), MeshError> {
        let mut inner = self.lock();
        inner.known(peer)?;
        let attribute = WireguardPeerAttribute::PresharedKey(key.map_or([0; 32], |key| *key.expose()));
        inner.send(vec![plan::update(peer, attribute)]).map_err(self.failed("change a shared secret"))
    }

    fn set_endpoint(&self, peer: PublicKey, endpoint: SocketAddr) -> Result<(), MeshError> {
        let mut inner = self.lock();
        inner.known(peer)?;
        if inner.held.contains_key(&peer) {
            return Ok(());
        }
        inner.set_endpoint(peer, endpoint).map_err(self.failed("change an endpoint"))
    }

    fn hold_endpoint(&self, peer: PublicKey, endpoint: Option<SocketAddr>) -> Result<(), MeshError> {
        let mut inner = self.lock();
        inner.known(peer)?;
        let Some(endpoint) = endpoint else {
            inner.held.remove(&peer);
            return Ok(());
        };
        inner.set_endpoint(peer, endpoint).map_err(self.failed("hold an endpoint"))?;
        inner.held.insert(peer, endpoint);
        Ok(())
    }

    fn peers(&self) -> Result<Vec<PeerStatus>, MeshError> {
        let mut inner = self.lock();
        let attributes = inner.wireguard.get().map_err(self.failed("read the peers"))?;
        let peers = attributes.into_iter().flat_map(|attribute| match attribute {
            WireguardAttribute::Peers(peers) => peers,
            _ => vec![],
        });
        let mut statuses: Vec<PeerStatus> = Vec::new();
        for status in peers.filter_map(|peer| status(&peer)) {
            // A further piece of the last one, which has addresses only.
            let further = statuses.last().is_some_and(|last| last.public_key == status.public_key);
            if !further && status.public_key != inner.nobody {
                statuses.push(status);
            }
        }
        Ok(statuses)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Err(error) = self.lock().links.delete(&self.link) {
            tracing::warn!(link = self.link, %error, "the mesh's link could not be deleted");
        }
    }
}

fn status(peer: &WireguardPeer) -> Option<PeerStatus> {
    use WireguardPeerAttribute as A;
    let mut key = None;
    let mut status =
        PeerStatus { public_key: PublicKey([0; 32]), endpoint: None, last_handshake: None, rx_bytes: 0, tx_bytes: 0 };
    for attribute in &peer.0 {
        match attribute {
            A::PublicKey(bytes) => key = Some(PublicKey(*bytes)),
            A::Endpoint(endpoint) => status.endpoint = Some(*endpoint),
            A::RxBytes(bytes) => status.rx_bytes = *bytes,
            A::TxBytes(bytes) => status.tx_bytes = *bytes,
            // Never is said by zero.
            A::LastHandshake(time) if time.seconds > 0 => {
                let since = Duration::from_secs(time.seconds.unsigned_abs());
                status.last_handshake = SystemTime::UNIX_EPOCH.checked_add(since);
            }
            _ => {}
        }
    }
    Some(PeerStatus { public_key: key?, ..status })
}
