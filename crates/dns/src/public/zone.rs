//! What zones there are, and the view that their names are answered from.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use atoll_catalogue::Snapshot;
use atoll_model::reach::Reachability;

use super::edges::Edges;
use super::places::Places;
use super::sign::Signer;
use crate::internal::Here;
use crate::record::Authority;
use crate::wire::Name;

/// Seconds for which secondaries wait before they look again, try again, and give up.
const REFRESH: u32 = 300;
const RETRY: u32 = 60;
const EXPIRE: u32 = 14 * 86_400;
/// Seconds for which it is believed that something does not exist.
pub(super) const MINIMUM: u32 = 30;

/// Which names of a zone are apps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Every app has the name `<app>.<zone>`; custom host names may lie in it as well.
    AppDomain,
    /// Only custom host names.
    Delegated,
}

/// A server that the zone's parent delegates to.
#[derive(Clone, Debug)]
pub struct NameServer {
    pub name: Name,
    /// Given with the zone when the name lies in it.
    pub addresses: Vec<IpAddr>,
}

/// A zone that is answered for.
pub struct Zone {
    pub(super) origin: Name,
    pub(super) kind: Kind,
    pub(super) servers: Vec<NameServer>,
    pub(super) mailbox: Name,
    pub(super) signer: Option<Signer>,
    /// Who is told of changes.
    pub(super) notified: Vec<SocketAddr>,
    /// Who may have the whole zone.
    pub(super) transferred_to: Vec<IpAddr>,
    serial: AtomicU32,
}

impl Zone {
    /// A zone with its servers, the first of them being the primary. `serial`: at least what any earlier
    /// process gave; seconds since 1970 will do. None without a server.
    pub fn new(origin: Name, kind: Kind, servers: Vec<NameServer>, serial: u32) -> Option<Self> {
        let mailbox = origin.child(b"hostmaster")?;
        let serial = AtomicU32::new(serial);
        let none = (Vec::new(), Vec::new());
        (!servers.is_empty()).then_some(Self {
            origin,
            kind,
            servers,
            mailbox,
            signer: None,
            notified: none.0,
            transferred_to: none.1,
            serial,
        })
    }

    /// Answers are signed.
    pub fn signed(self, signer: Signer) -> Self {
        Self { signer: Some(signer), ..self }
    }

    /// Servers elsewhere that hold copies of the zone.
    pub fn secondaries(self, secondaries: Vec<SocketAddr>) -> Self {
        let transferred_to = secondaries.iter().map(|secondary| secondary.ip().to_canonical()).collect();
        Self { notified: secondaries, transferred_to, ..self }
    }

    pub fn origin(&self) -> &Name {
        &self.origin
    }

    pub fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// The zone has changed; `unix` are seconds since 1970, which a serial never falls behind, so that
    /// the next process begins beyond it.
    pub(super) fn changed(&self, unix: u64) {
        self.serial.store(self.serial().wrapping_add(1).max(unix as u32), Ordering::Relaxed);
    }

    /// The data of the zone's SOA record; the zone has a server from its making on.
    pub(super) fn start_of_authority(&self) -> Vec<u8> {
        let server = self.servers.first().map_or(self.origin, |server| server.name);
        let authority = Authority {
            server,
            mailbox: self.mailbox,
            serial: self.serial(),
            refresh: REFRESH,
            retry: RETRY,
            expire: EXPIRE,
            minimum: MINIMUM,
        };
        authority.data()
    }
}

/// All that public answers follow from. Cloning is cheap: parts are shared.
#[derive(Clone)]
pub struct View {
    pub(super) catalogue: Snapshot,
    pub(super) places: Arc<Places>,
    /// Anycast addresses through which the API and every app are entered; where there are none, edges' own are
    /// given.
    pub(super) shared: Arc<[IpAddr]>,
    pub(super) edges: Arc<Edges>,
}

impl View {
    /// The view of a node.
    pub fn new(
        catalogue: Snapshot,
        reach: &Reachability,
        here: &Here,
        shared: Arc<[IpAddr]>,
        places: Arc<Places>,
    ) -> Self {
        let edges = Arc::new(Edges::new(&catalogue, reach, here));
        Self { catalogue, places, shared, edges }
    }
}
