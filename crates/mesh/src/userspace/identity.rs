//! Who this node is, and its defence against floods of handshakes.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;

use crate::key::{PrivateKey, PublicKey};

/// Handshakes a second that are answered without asking for a cookie. A handshake costs some 0.2 ms.
const HANDSHAKES_PER_SECOND: u64 = 500;

/// What the gate says of a handshake message.
pub enum Verdict {
    Pass,
    /// Too many at once: the sender must show that it receives at its address.
    Challenge(Vec<u8>),
    /// It does not know our key.
    Refuse,
}

pub struct Identity {
    pub secret: x25519::StaticSecret,
    point: x25519::PublicKey,
    /// Counts handshakes of all peers together, before anything is computed.
    gate: RateLimiter,
    /// What tunnels are given, as the gate has already counted.
    pub unlimited: Arc<RateLimiter>,
}

impl Identity {
    pub fn new(key: &PrivateKey) -> Self {
        let secret = key.secret();
        let point = x25519::PublicKey::from(&secret);
        let gate = RateLimiter::new(&point, HANDSHAKES_PER_SECOND);
        let unlimited = Arc::new(RateLimiter::new(&point, u64::MAX));
        Self { secret, point, gate, unlimited }
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.point.to_bytes())
    }

    pub fn judge(&self, from: IpAddr, message: &[u8]) -> Verdict {
        let mut cookie = [0; 64];
        match self.gate.verify_packet(Some(from), message, &mut cookie) {
            Ok(_) => Verdict::Pass,
            Err(TunnResult::WriteToNetwork(cookie)) => Verdict::Challenge(cookie.to_vec()),
            Err(_) => Verdict::Refuse,
        }
    }

    /// Begins another second for the gate, once one has passed.
    pub fn tick(&self) {
        self.gate.reset_count();
    }

    /// Who sent an initiation, by its own account.
    pub fn initiator(&self, message: &[u8]) -> Result<PublicKey, WireGuardError> {
        match Tunn::parse_incoming_packet(message)? {
            Packet::HandshakeInit(initiation) => {
                let half = parse_handshake_anon(&self.secret, &self.point, &initiation)?;
                Ok(PublicKey(half.peer_static_public))
            }
            _ => Err(WireGuardError::WrongPacketType),
        }
    }
}
