//! What servers say to each other beside their tunnels, on the underlay: questions and answers that
//! measure the direct way, what they know of their ways to others, and wishes to be relayed.
//!
//! Here are the words ([`Signal`]), and how a pair of servers seals them ([`Seal`]). Who says what when is
//! the caller's. A datagram proves who wrote it, not when: only an answer to a number that was asked of late
//! is known to be fresh, and to come from where it seems to.

mod post;
mod seal;
mod wire;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::key::PublicKey;

pub use self::post::Post;
pub use self::seal::{Seal, sender};
pub(crate) use self::wire::{read, write};

/// A server listens for signals on this many ports above its mesh's.
pub const PORT_ABOVE: u16 = 2;
/// The longest datagram: filled up, it is as large as Ethernet carries over IPv4.
pub const LONGEST: usize = 1472;
/// The longest one that is not filled up: it fits every way that carries IPv6.
#[cfg(test)]
const LONGEST_UNFILLED: usize = 1232;

/// Of each in one signal.
pub const MAX_ABOUT: usize = 8;
pub const MAX_RELAYED: usize = 32;

/// The port for signals of a server whose mesh listens on this one; none where there is no such port.
#[must_use]
pub fn port(mesh: u16) -> Option<u16> {
    mesh.checked_add(PORT_ABOVE).filter(|_| mesh > 0)
}

/// A server, in few bytes: the first ones of its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id(pub [u8; 8]);

impl From<PublicKey> for Id {
    fn from(key: PublicKey) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = key.0;
        Self([a, b, c, d, e, f, g, h])
    }
}

/// One signal. The default says nothing, and is a sign of life.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Signal {
    /// Comes back as `answer`.
    pub ask: Option<NonZeroU64>,
    pub answer: Option<NonZeroU64>,
    /// This pair's packets go from here to the other's own address, not over a relay. Said by the one that
    /// decides it.
    pub direct: bool,
    /// Whose ways from the other one are of interest here.
    pub about: Vec<Id>,
    /// To whom the other one shall relay this server's packets.
    pub relay_to: Vec<Id>,
    /// Ways from here, as they were asked for.
    pub ways: Vec<KnownWay>,
    /// Ports of this server, each for the other one's packets to a third.
    pub relaying: Vec<(Id, u16)>,
}

/// What a server knows of its direct way to another one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct KnownWay {
    pub to: Id,
    /// Since something was heard on it. A minute means any longer time.
    pub silent: Duration,
    pub round_trip: Duration,
    /// Share of questions without an answer, 0 to 1.
    pub loss: f32,
    /// Where its mesh's packets come from.
    pub mesh: Option<SocketAddr>,
    /// Where its signals come from.
    pub signals: Option<SocketAddr>,
}
