//! Sealing for a pair of servers, by what their mesh keys have in common: XChaCha20-Poly1305 with a key for
//! each direction, so that nobody's own words come back as the other's. On the wire a datagram is four bytes
//! that name the protocol, the sender's [`Id`], the nonce, and the sealed rest.

use blake2::Blake2sMac256;
use blake2::digest::{KeyInit, Mac};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::{Id, LONGEST, Signal, wire};
use crate::key::{PrivateKey, PublicKey};

/// Names protocol and version.
const MAGIC: [u8; 4] = *b"ats1";
const NONCE: usize = 24;
const TAG: usize = 16;
const HEADER: usize = MAGIC.len() + 8;
pub const OVERHEAD: usize = HEADER + NONCE + TAG;
/// Keeps these keys apart from all others that are made of the same secret.
const LABEL: &[u8] = b"atoll mesh signal 1";

/// Both directions between this server and one other.
pub struct Seal {
    own: Id,
    peer: Id,
    out: XChaCha20Poly1305,
    back: XChaCha20Poly1305,
}

impl Seal {
    /// None for a key that has nothing in common with anybody's, which no server makes.
    #[must_use]
    pub fn new(own: &PrivateKey, peer: PublicKey) -> Option<Self> {
        let shared = own.secret().diffie_hellman(&peer.point());
        if !shared.was_contributory() {
            return None;
        }
        let public = own.public();
        let cipher = |from: &PublicKey, to: &PublicKey| {
            // A key for BLAKE2s has 32 bytes at most; this one has just so many.
            let mut mac = <Blake2sMac256 as KeyInit>::new_from_slice(shared.as_bytes()).ok()?;
            [LABEL, &from.0, &to.0].into_iter().for_each(|part| mac.update(part));
            let key: Zeroizing<[u8; 32]> = Zeroizing::new(mac.finalize().into_bytes().into());
            Some(XChaCha20Poly1305::new((&*key).into()))
        };
        let (out, back) = (cipher(&public, &peer)?, cipher(&peer, &public)?);
        Some(Self { own: public.into(), peer: peer.into(), out, back })
    }

    /// The datagram for the other one.
    #[must_use]
    pub fn seal(&self, signal: &Signal) -> Vec<u8> {
        self.seal_to(signal, 0)
    }

    /// The datagram for the other one, filled up to this length if it is shorter.
    #[must_use]
    pub fn seal_to(&self, signal: &Signal, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity((OVERHEAD + 64).max(length));
        bytes.extend(MAGIC);
        bytes.extend(self.own.0);
        let nonce: [u8; NONCE] = rand::random();
        bytes.extend(nonce);
        wire::write(signal, &mut bytes);
        bytes.resize(bytes.len().max(length.saturating_sub(TAG)), 0);
        let (header, body) = bytes.split_at_mut(HEADER + NONCE);
        match self.out.encrypt_in_place_detached(XNonce::from_slice(&nonce), &header[..HEADER], body) {
            Ok(tag) => bytes.extend(tag),
            // Only of more than 256 GiB. Without a tag it is no datagram of ours.
            Err(_) => bytes.clear(),
        }
        bytes
    }

    /// None for what the other one did not write for us.
    #[must_use]
    pub fn open(&self, datagram: &[u8]) -> Option<Signal> {
        if sender(datagram) != Some(self.peer) {
            return None;
        }
        let (header, rest) = datagram.split_at_checked(HEADER)?;
        let (nonce, rest) = rest.split_at_checked(NONCE)?;
        let (body, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
        let mut body = body.to_vec();
        let opened = self.back.decrypt_in_place_detached(XNonce::from_slice(nonce), header, &mut body, tag.into());
        opened.ok().and_then(|()| wire::read(&body))
    }
}

/// Who a datagram claims to be from; none if it is no signal.
#[must_use]
pub fn sender(datagram: &[u8]) -> Option<Id> {
    if datagram.len() < OVERHEAD || datagram.len() > LONGEST {
        return None;
    }
    let rest = datagram.strip_prefix(&MAGIC)?;
    rest.first_chunk().copied().map(Id)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    #[test]
    fn only_the_other_end_reads_it_and_every_byte_counts() {
        let [a, b, c] = [1, 2, 3].map(|byte| PrivateKey::from_bytes([byte; 32]));
        let seal = |own: &PrivateKey, peer: &PrivateKey| Seal::new(own, peer.public()).unwrap();
        let signal = Signal { ask: NonZeroU64::new(7), direct: true, ..Signal::default() };
        let datagram = seal(&a, &b).seal(&signal);
        assert_eq!(sender(&datagram), Some(a.public().into()));
        assert_eq!(seal(&b, &a).open(&datagram), Some(signal));
        for stranger in [seal(&c, &a), seal(&a, &b), seal(&a, &c), seal(&b, &c)] {
            assert_eq!(stranger.open(&datagram), None);
        }
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            assert_eq!(seal(&b, &a).open(&changed), None, "byte {at}");
            assert_eq!(seal(&b, &a).open(&datagram[..at]), None);
        }
    }

    #[test]
    fn a_datagram_is_filled_up_to_any_length_it_may_have() {
        let [a, b] = [1, 2].map(|byte| PrivateKey::from_bytes([byte; 32]));
        let seal = |own: &PrivateKey, peer: &PrivateKey| Seal::new(own, peer.public()).unwrap();
        let signal = Signal { ask: NonZeroU64::new(7), ..Signal::default() };
        let shortest = seal(&a, &b).seal(&signal).len();
        for length in [0, shortest, shortest + 1, LONGEST] {
            let datagram = seal(&a, &b).seal_to(&signal, length);
            assert_eq!((datagram.len(), seal(&b, &a).open(&datagram)), (length.max(shortest), Some(signal.clone())));
        }
        assert_eq!(seal(&b, &a).open(&seal(&a, &b).seal_to(&signal, LONGEST + 1)), None);
    }

    #[test]
    fn a_key_without_a_secret_is_nobodys() {
        assert!(Seal::new(&PrivateKey::from_bytes([1; 32]), PublicKey([0; 32])).is_none());
    }
}
