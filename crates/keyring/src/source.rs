//! Where root keys live. A file today; a security module or a key service implements the same trait,
//! whose operations never need the root key to leave its home.

use std::fmt;

use zeroize::Zeroizing;

/// Length of every key, in bytes (AES-256).
pub const KEY_BYTES: usize = 32;

/// Key material that is wiped from memory when dropped.
pub type SecretKey = Zeroizing<[u8; KEY_BYTES]>;

/// Names a root key without revealing it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; KeyId::BYTES]);

impl KeyId {
    pub const BYTES: usize = 8;
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// Holds root keys and uses them on behalf of a [`crate::Keyring`]. Exactly one key is current;
/// older ones stay usable for unwrapping until nothing sealed by them is left.
pub trait KeySource: Send + Sync {
    /// The root key that new values are sealed with.
    fn current(&self) -> KeyId;

    /// Encrypts a data key with the current root key, bound to `context`.
    fn wrap(&self, context: &[u8], data_key: &SecretKey) -> Result<Vec<u8>, KeyError>;

    /// The reverse of [`KeySource::wrap`], by whichever root key did it.
    fn unwrap(&self, key: KeyId, context: &[u8], wrapped: &[u8]) -> Result<SecretKey, KeyError>;

    /// A keyed digest (HMAC-SHA-256 or as strong) under the current root key.
    fn mac(&self, message: &[u8]) -> Result<[u8; 32], KeyError>;
}

/// Why a root key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("root key {id} is not in this keyring")]
    Unknown { id: KeyId },
    #[error("the wrapped key is not authentic under root key {id}")]
    NotAuthentic { id: KeyId },
    #[error("the cryptographic library refused the operation")]
    Refused,
    #[error("the key service failed")]
    Unavailable { source: Box<dyn std::error::Error + Send + Sync> },
}
