//! What a responder gives to an initiator, over a connection that proves both.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::party::Party;

/// A ticket is good for so long after it was given, and an initiator stops using it earlier: it counts from
/// before it asked.
pub const TICKET_LIFE: Duration = Duration::from_secs(600);
/// By then there is a session or the other server is not there: packets of an attempt are not taken later.
pub const ATTEMPT_LIFE: Duration = Duration::from_secs(5);

/// Names a ticket on the wire; random, so that nobody finds one by trying.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct TicketId(pub [u8; 16]);

/// Chosen at random by the initiator for each use of a ticket, so that even a ticket that is used twice by
/// mistake never seals two packets under one key and number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attempt(pub [u8; 16]);

/// What all keys of a ticket come from. Wiped when it is dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// For whoever hands it to the initiator.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; 32]>::deserialize(deserializer).map(Self::new)
    }
}

/// Bytes from which a grant is made; they must come from a generator that is fit for keys.
pub type GrantBytes = [u8; 48];

/// A ticket as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    pub id: TicketId,
    pub secret: Secret,
}

impl Grant {
    pub(crate) fn new(random: &GrantBytes) -> Self {
        let (mut id, mut secret) = ([0; 16], [0; 32]);
        id.copy_from_slice(&random[..16]);
        secret.copy_from_slice(&random[16..]);
        Self { id: TicketId(id), secret: Secret::new(secret) }
    }
}

/// A ticket as its initiator keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ticket {
    id: TicketId,
    pub(crate) secret: Secret,
    pub(crate) responder: Party,
    /// Where the responder takes early packets.
    pub(crate) address: SocketAddr,
    /// On the clock that runs since the host's start.
    pub(crate) expires: Duration,
}

impl Ticket {
    /// `asked` is when it was asked for, on the clock that runs since this host's start.
    #[must_use]
    pub fn new(grant: Grant, responder: Party, address: SocketAddr, asked: Duration) -> Self {
        Self { id: grant.id, secret: grant.secret, responder, address, expires: asked + TICKET_LIFE }
    }

    #[must_use]
    pub fn id(&self) -> TicketId {
        self.id
    }

    #[must_use]
    pub fn responder(&self) -> &Party {
        &self.responder
    }

    /// Whether it may be used. One that claims more than a ticket's life is none of ours.
    #[must_use]
    pub fn is_good(&self, now: Duration) -> bool {
        now < self.expires && self.expires <= now + TICKET_LIFE
    }
}
