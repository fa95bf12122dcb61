//! Sealing: turns a value into bytes that may lie in a database or a backup, readable again only
//! with the root key. Each value gets its own data key; the data key travels with the value, wrapped
//! by the root key, so that a root key held elsewhere (PKCS#11, KMS) never sees the value.
//!
//! This crate does not know what it seals. The caller names a *context* such as
//! `secret/<app>/<name>`; a value opens only under the context it was sealed under, so that rows
//! cannot be swapped by someone who can write the database.

mod aead;
mod file;
mod sealed;
mod source;

pub use file::{FileKeys, FileKeysError};
pub use sealed::{Keyring, OpenError, SealError};
pub use source::{KeyError, KeyId, KeySource, SecretKey};
