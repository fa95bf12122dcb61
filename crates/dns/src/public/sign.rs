//! Signatures made as answers are given (ECDSA on P-256 with SHA-256, RFC 6605), and proofs that something
//! does not exist which name nothing else (RFC 9824). One key signs all of a zone.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::generations::Generations;
use crate::wire::{CLASS_IN, Name, Type};

const ALGORITHM: u8 = 13;
/// A zone key that is also its entry point.
const KEY_FLAGS: u16 = 257;
const DIGEST_SHA256: u8 = 2;
const DAY: u64 = 86_400;
/// Signatures begin a day before the day on which they are made and hold for two weeks from then: clocks
/// may be wrong, and all answers of a day are the same.
const BEGINS_BEFORE: u64 = DAY;
const HOLDS_FOR: u64 = 14 * DAY;
/// Signatures kept, at some 300 bytes each.
const KEPT: usize = 40_000;

/// A key that does not sign.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKey {
    #[error("the zone's key is no PKCS #8 document of a P-256 key")]
    Rejected(#[source] KeyRejected),
    #[error("no zone key could be made")]
    NotMade(#[source] Unspecified),
}

/// A zone's key, and the signatures it has made.
pub struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    kept: Mutex<Generations<Vec<u8>, [u8; 64]>>,
}

impl Signer {
    /// A new key, as a PKCS #8 document.
    pub fn generate() -> Result<Vec<u8>, InvalidKey> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        document.map(|document| document.as_ref().to_vec()).map_err(InvalidKey::NotMade)
    }

    pub fn from_pkcs8(document: &[u8]) -> Result<Self, InvalidKey> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document).map_err(InvalidKey::Rejected)?;
        Ok(Self { key, random: SystemRandom::new(), kept: Mutex::new(Generations::new(KEPT)) })
    }

    /// The data of the zone's DNSKEY record.
    pub fn key_data(&self) -> Vec<u8> {
        // An uncompressed point begins with a byte that says so.
        let point = self.key.public_key().as_ref();
        let mut data = KEY_FLAGS.to_be_bytes().to_vec();
        data.extend([3, ALGORITHM]);
        data.extend(point.get(1..).unwrap_or_default());
        data
    }

    /// A short name for the key (RFC 4034 appendix B).
    pub fn key_tag(&self) -> u16 {
        let pairs = self.key_data();
        let sum: u32 =
            pairs.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum();
        (sum + (sum >> 16)) as u16
    }

    /// What the zone's parent must say, as the data of a DS record in a zone file.
    pub fn delegation(&self, origin: &Name) -> String {
        let signed = [origin.wire(), &self.key_data()].concat();
        let digest = digest::digest(&digest::SHA256, &signed);
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        format!("{} {ALGORITHM} {DIGEST_SHA256} {hex}", self.key_tag())
    }

    /// The data of the RRSIG record of all records of one owner and type. None if the key fails, which
    /// it does not.
    pub fn sign(&self, zone: &Name, owner: &Name, kind: Type, ttl: u32, data: &[&[u8]], unix: u64) -> Option<Vec<u8>> {
        let begins = unix / DAY * DAY - BEGINS_BEFORE.min(unix / DAY * DAY);
        let wildcard = owner.labels().next() == Some(b"*");
        let labels = owner.label_count() - usize::from(wildcard);
        let mut head = Vec::with_capacity(512);
        head.extend(kind.0.to_be_bytes());
        head.extend([ALGORITHM, labels as u8]);
        head.extend(ttl.to_be_bytes());
        // These wrap in 2106, as the protocol means them to.
        head.extend(((begins + HOLDS_FOR) as u32).to_be_bytes());
        head.extend((begins as u32).to_be_bytes());
        head.extend(self.key_tag().to_be_bytes());
        head.extend(zone.wire());
        let length = head.len();
        let mut sorted = data.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        for data in sorted {
            head.extend(owner.wire());
            head.extend(kind.0.to_be_bytes());
            head.extend(CLASS_IN.to_be_bytes());
            head.extend(ttl.to_be_bytes());
            head.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            head.extend(data);
        }
        let signature = self.signature(&head)?;
        head.truncate(length);
        head.extend(signature);
        Some(head)
    }

    fn signature(&self, signed: &[u8]) -> Option<[u8; 64]> {
        // Whoever panicked meanwhile left whole signatures.
        let known = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(signed);
        if known.is_some() {
            return known;
        }
        let signature = self.key.sign(&self.random, signed).ok()?;
        let signature: [u8; 64] = signature.as_ref().try_into().ok()?;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(signed.to_vec(), signature);
        Some(signature)
    }
}

/// The data of an NSEC record up to `next`, with the types that exist at its owner.
pub(super) fn nsec(next: &Name, kinds: impl IntoIterator<Item = Type>) -> Vec<u8> {
    let mut bitmap = [0_u8; 32];
    for kind in kinds.into_iter().chain([Type::RRSIG, Type::NSEC]) {
        // All types that are served here are of the first window.
        if let Some(byte) = bitmap.get_mut(usize::from(kind.0 / 8)) {
            *byte |= 0x80 >> (kind.0 % 8);
        }
    }
    let length = bitmap.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut data = next.wire().to_vec();
    data.extend([0, length as u8]);
    data.extend(&bitmap[..length]);
    data
}
