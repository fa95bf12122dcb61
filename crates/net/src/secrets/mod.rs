//! The secret that two servers share beside their mesh keys, and how they come to another one without
//! losing a packet.
//!
//! A recorded session cannot be opened by who later finds out the mesh keys alone, nor by who can compute
//! them from what went over the wire. Each secret lives as long as the two certificates under which it was
//! agreed on: when the leading server (the one with the smaller mesh key) has a new certificate, it makes a
//! new secret with the other.
//!
//! ```text
//!   leader                      follower
//!   Offer(id, half)  ─────────▶ agreed := both halves     written to disk before the answer
//!   agreed := both   ◀───────── half
//!   Use(id)          ─────────▶ current := agreed         written, then used
//!   current := agreed ◀──────── known
//! ```
//!
//! Between the two uses the session goes on under its keys; handshakes fail and are tried again. Whoever
//! dies on the way has written what it agreed to, and the leader asks again: `Use` may be repeated. A
//! leader whose peer cannot be reached through the mesh asks whether they still mean the same secret.
//!
//! Here are the decisions ([`Pair`]); [`held`] keeps them on disk and in the link.

pub mod held;

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

use atoll_mesh::{PresharedKey, PublicKey};
use atoll_model::NodeName;

/// Bytes of what each server contributes.
pub const HALF_BYTES: usize = 32;
const LABEL: &[u8] = b"atoll mesh secret v1";

/// Names one agreement of two servers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SecretId(pub [u8; 16]);

/// What one server contributes to a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Half {
    pub random: Zeroizing<[u8; HALF_BYTES]>,
    /// Unix seconds at which its certificate ends.
    pub certificate_until: u64,
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Half(until {})", self.certificate_until)
    }
}

/// A server as both of a pair know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    pub node: NodeName,
    pub key: PublicKey,
}

/// A secret that both know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Secret {
    pub id: SecretId,
    pub key: PresharedKey,
    /// Unix seconds: when the leader's certificate ends under which it was made.
    pub leader_until: u64,
}

/// Makes the secret of both halves; the same on both servers, and another for any other pair, platform or
/// certificates.
pub fn derive(platform: &str, id: SecretId, leader: (&End, &Half), follower: (&End, &Half)) -> Secret {
    let mut info: Vec<u8> = Vec::new();
    // Each part with its length: no two lists of parts look alike.
    let mut add = |part: &[u8]| {
        info.extend((part.len() as u64).to_be_bytes());
        info.extend(part);
    };
    add(LABEL);
    add(platform.as_bytes());
    for (end, half) in [leader, follower] {
        add(end.node.as_str().as_bytes());
        add(&end.key.0);
        add(&half.certificate_until.to_be_bytes());
    }
    let halves = Zeroizing::new([leader.1.random.as_slice(), follower.1.random.as_slice()].concat());
    let mut key = Zeroizing::new([0; 32]);
    let extracted = Salt::new(HKDF_SHA256, &id.0).extract(&halves);
    extracted
        .expand(&[&info], KeyLength)
        .and_then(|made| made.fill(key.as_mut_slice()))
        .expect("HKDF gives 32 bytes whatever it is asked with");
    Secret { id, key: PresharedKey::from_bytes(*key), leader_until: leader.1.certificate_until }
}

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

/// What this server knows of its secrets with one other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pair {
    current: Option<Secret>,
    agreed: Option<Secret>,
}

/// What the leader has to ask of the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// For its half of a new secret.
    Offer,
    /// To use the secret of this id, or to say that it does not know it.
    Use(SecretId),
}

/// What became of an order to use a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Used {
    /// It is the current one from now on.
    Now,
    /// It was the current one.
    Already,
    Unknown,
}

impl Pair {
    /// The secret in use; none until the first one was agreed on.
    pub fn current(&self) -> Option<&Secret> {
        self.current.as_ref()
    }

    /// What the leader asks next, if anything. `certificate_until`: when its own certificate ends;
    /// `reached`: whether the other answers through the mesh.
    pub fn next(&self, certificate_until: u64, reached: bool) -> Option<Ask> {
        match (&self.agreed, &self.current) {
            (Some(agreed), _) => Some(Ask::Use(agreed.id)),
            (None, None) => Some(Ask::Offer),
            (None, Some(current)) if current.leader_until != certificate_until => Some(Ask::Offer),
            (None, Some(current)) => (!reached).then_some(Ask::Use(current.id)),
        }
    }

    /// Both know the secret; the one in use stays until [`Pair::take_into_use`].
    pub fn agree(&mut self, secret: Secret) {
        self.agreed = Some(secret);
    }

    /// Uses the secret of this id, if it is known.
    pub fn take_into_use(&mut self, id: SecretId) -> Used {
        if self.current.as_ref().is_some_and(|current| current.id == id) {
            return Used::Already;
        }
        match self.agreed.take_if(|agreed| agreed.id == id) {
            Some(agreed) => {
                self.current = Some(agreed);
                Used::Now
            }
            None => Used::Unknown,
        }
    }

    /// The other does not know the secret of this id: as leader, begin anew. One that was in use serves on
    /// until there is another, as the other may have forgotten its own without having been restarted.
    pub fn disowned(&mut self, id: SecretId) {
        self.agreed.take_if(|agreed| agreed.id == id);
        if let Some(current) = self.current.as_mut().filter(|current| current.id == id) {
            current.leader_until = 0;
        }
    }
}

#[cfg(test)]
mod tests;
