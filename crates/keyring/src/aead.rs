//! AES-256-GCM with a random 96-bit nonce in front of the ciphertext. A data key seals one value, so
//! nonces repeat at most under a root key, which would take 2^32 values to become likely.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;

use crate::source::{KEY_BYTES, SecretKey};

/// What sealing adds to a text: nonce and tag.
pub(crate) const OVERHEAD: usize = NONCE_LEN + 16;

/// `nonce || ciphertext || tag`.
pub(crate) fn encrypt(key: &SecretKey, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_slice())?;
    let mut body = plaintext.to_vec();
    let nonce = key.seal_in_place_append_tag(Aad::from(aad), &mut body)?;
    let mut out = Vec::with_capacity(NONCE_LEN + body.len());
    out.extend_from_slice(nonce.as_ref());
    out.append(&mut body);
    Ok(out)
}

/// The reverse of [`encrypt`]; an error says only that the bytes are not authentic.
pub(crate) fn decrypt(key: &SecretKey, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(Unspecified)?;
    let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_slice())?;
    let mut body = body.to_vec();
    let length = key.open_in_place(Nonce::try_assume_unique_for_key(nonce)?, Aad::from(aad), &mut body)?.len();
    body.truncate(length);
    Ok(body)
}

/// A fresh random key.
pub(crate) fn random_key() -> Result<SecretKey, Unspecified> {
    let mut key = SecretKey::new([0; KEY_BYTES]);
    aws_lc_rs::rand::fill(key.as_mut_slice())?;
    Ok(key)
}
