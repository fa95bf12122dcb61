//! The sealed form and its two doors.
//!
//! ```text
//! version 1 | root key id 8 | length 1 | wrapped data key | nonce 12 | ciphertext | tag 16
//! ```
//! The header (version and key id) and the context are authenticated together with the text.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::aead;
use crate::source::{KEY_BYTES, KeyError, KeyId, KeySource};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + KeyId::BYTES;

/// Seals and opens values with the root keys of a [`KeySource`]. Cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    keys: Arc<dyn KeySource>,
}

/// Why a value could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("cannot wrap a data key for {context:?}")]
    Wrap { context: String, source: KeyError },
    #[error("cannot encrypt the value for {context:?}")]
    Encrypt { context: String },
}

/// Why sealed bytes could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the sealed value of {context:?} is cut short: {length} bytes")]
    Truncated { context: String, length: usize },
    #[error("the sealed value of {context:?} has format {version}, this program knows {VERSION}")]
    UnknownVersion { context: String, version: u8 },
    #[error("cannot unwrap the data key of {context:?}")]
    Unwrap { context: String, source: KeyError },
    #[error("the sealed value of {context:?} was altered or belongs to another context")]
    NotAuthentic { context: String },
}

impl Keyring {
    pub fn new(keys: Arc<dyn KeySource>) -> Self {
        Self { keys }
    }

    /// Seals `plaintext` so that it opens under the same `context` only.
    pub fn seal(&self, context: &str, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let id = self.keys.current();
        let mut sealed = Vec::with_capacity(HEADER_BYTES + KEY_BYTES + 2 * aead::OVERHEAD + plaintext.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&id.0);
        let aad = associated(&sealed, context);

        let encrypt_failed = |_| SealError::Encrypt { context: context.to_owned() };
        let data_key = aead::random_key().map_err(encrypt_failed)?;
        let wrapped = self
            .keys
            .wrap(&aad, &data_key)
            .map_err(|source| SealError::Wrap { context: context.to_owned(), source })?;
        // One byte of length lets a key service choose its own wrapping.
        let length = u8::try_from(wrapped.len()).map_err(|_| SealError::Encrypt { context: context.to_owned() })?;
        sealed.push(length);
        sealed.extend_from_slice(&wrapped);
        sealed.extend_from_slice(&aead::encrypt(&data_key, &aad, plaintext).map_err(encrypt_failed)?);
        Ok(sealed)
    }

    /// Opens what [`Keyring::seal`] made under the same `context`. The text is wiped when dropped.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let truncated = || OpenError::Truncated { context: context.to_owned(), length: sealed.len() };
        let not_authentic = |_| OpenError::NotAuthentic { context: context.to_owned() };

        let (header, rest) = sealed.split_at_checked(HEADER_BYTES).ok_or_else(truncated)?;
        let (&version, id) = header.split_first().ok_or_else(truncated)?;
        if version != VERSION {
            return Err(OpenError::UnknownVersion { context: context.to_owned(), version });
        }
        let id = KeyId(id.try_into().map_err(|_| truncated())?);
        let (&length, rest) = rest.split_first().ok_or_else(truncated)?;
        let (wrapped, body) = rest.split_at_checked(usize::from(length)).ok_or_else(truncated)?;
        if body.len() < aead::OVERHEAD {
            return Err(truncated());
        }
        let aad = associated(header, context);
        let data_key = self
            .keys
            .unwrap(id, &aad, wrapped)
            .map_err(|source| OpenError::Unwrap { context: context.to_owned(), source })?;
        aead::decrypt(&data_key, &aad, body).map(Zeroizing::new).map_err(not_authentic)
    }

    /// Whether `sealed` uses the current root key; what does not should be sealed anew before the
    /// older key is given up.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        sealed.get(1..HEADER_BYTES) == Some(self.keys.current().0.as_slice())
    }

    /// A digest by which two values of the same context can be compared without telling what they
    /// are: without the root key it cannot be guessed from a list of likely values.
    pub fn fingerprint(&self, context: &str, value: &[u8]) -> Result<[u8; 32], KeyError> {
        let mut message = Zeroizing::new(associated(b"fingerprint", context));
        message.extend_from_slice(value);
        self.keys.mac(&message)
    }
}

/// Header and context with the length between them, so that no two pairs look alike.
fn associated(header: &[u8], context: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(header.len() + 8 + context.len());
    out.extend_from_slice(header);
    out.extend_from_slice(&(context.len() as u64).to_be_bytes());
    out.extend_from_slice(context.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::FileKeys;

    fn keyring() -> (tempfile::TempDir, Keyring) {
        let dir = tempfile::tempdir().unwrap();
        let keys = FileKeys::open_or_create(&dir.path().join("root.key")).unwrap();
        (dir, Keyring::new(Arc::new(keys)))
    }

    #[test]
    fn a_value_opens_under_its_own_context_only() {
        let (_dir, keyring) = keyring();
        let sealed = keyring.seal("secret/a/PASSWORD", b"hunter2").unwrap();
        assert_eq!(keyring.open("secret/a/PASSWORD", &sealed).unwrap().as_slice(), b"hunter2");
        let error = keyring.open("secret/b/PASSWORD", &sealed).unwrap_err();
        assert!(matches!(error, OpenError::Unwrap { source: KeyError::NotAuthentic { .. }, .. }), "{error:?}");
    }

    #[test]
    fn equal_values_seal_differently_and_hide_their_text() {
        let (_dir, keyring) = keyring();
        let [one, two] = [0; 2].map(|_| keyring.seal("c", b"the same text").unwrap());
        assert_ne!(one, two);
        assert!(!one.windows(8).any(|window| window == b"the same"));
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        let (_dir, keyring) = keyring();
        let sealed = keyring.seal("c", b"text").unwrap();
        for index in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[index] ^= 1;
            assert!(keyring.open("c", &altered).is_err(), "byte {index} could be altered");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let (_dir, keyring) = keyring();
        let sealed = keyring.seal("c", b"text").unwrap();
        for length in 0..sealed.len() {
            assert!(keyring.open("c", &sealed[..length]).is_err(), "{length} bytes were enough");
        }
    }

    #[test]
    fn another_keyring_opens_nothing() {
        let (_one, mine) = keyring();
        let (_two, other) = keyring();
        let sealed = mine.seal("c", b"text").unwrap();
        let error = other.open("c", &sealed).unwrap_err();
        assert!(matches!(error, OpenError::Unwrap { source: KeyError::Unknown { .. }, .. }), "{error:?}");
    }

    #[test]
    fn fingerprints_tell_values_and_contexts_apart() {
        let (_one, mine) = keyring();
        let (_two, other) = keyring();
        let print = |keyring: &Keyring, context, value| keyring.fingerprint(context, value).unwrap();
        assert_eq!(print(&mine, "c", b"v"), print(&mine, "c", b"v"));
        assert_ne!(print(&mine, "c", b"v"), print(&mine, "c", b"w"));
        assert_ne!(print(&mine, "ca", b"b"), print(&mine, "c", b"ab"));
        assert_ne!(print(&mine, "c", b"v"), print(&other, "c", b"v"));
    }

    proptest! {
        #[test]
        fn any_text_survives(context in ".{0,40}", text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (_dir, keyring) = keyring();
            let sealed = keyring.seal(&context, &text).unwrap();
            let opened = keyring.open(&context, &sealed).unwrap();
            prop_assert_eq!(opened.as_slice(), text.as_slice());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (_dir, keyring) = keyring();
            prop_assert!(keyring.open("c", &bytes).is_err());
        }
    }
}
