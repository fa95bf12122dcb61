//! A door beside the sessions, for packets that are worth sending before there is one.

use std::time::Instant;

use crate::key::PublicKey;

/// Is shown packets to peers, on the threads that carry and while the peer is locked: it neither blocks nor
/// calls the link.
pub type Taker = Box<dyn Fn(PublicKey, &[u8]) + Send + Sync>;

/// A link that shows what it cannot send yet, and takes packets that came another way. Whatever is shown
/// also takes the usual way: whoever stands at this door can do nothing that loses a packet.
pub trait Beside: Send + Sync {
    /// From now on `taker` is shown every packet that has to wait for a session with its peer. Only the first
    /// taker of a link is taken.
    fn show_to(&self, taker: Taker);

    /// Also shows packets to this peer that go through a session, as the peer may not know it any more: until
    /// the two have agreed on a new one, or until this moment.
    fn show_until(&self, peer: PublicKey, until: Instant);

    /// Hands this host a packet as if it had come from the peer through the link. False if the peer may not
    /// send from there, or the interface did not take it.
    fn inject(&self, peer: PublicKey, packet: &[u8]) -> bool;
}
