//! Who asks, and what they may do: token texts, the `Authorization` header, principals, one pure
//! table of rights.
//!
//! A token is 256 random bits. The records hold its SHA-256 only, and it is found by that hash: the
//! time a look-up takes tells something of the hash, from which nothing of the token follows, so no
//! comparison here needs to hide its time.
//!
//! This crate does not know what machines are, nor HTTP beyond one header's text.

mod access;
mod authenticate;
mod credentials;
mod token;

pub use access::{Action, Denied, Principal, Target, authorize};
pub use authenticate::{AuthError, Caller, authenticate, first_token, token_create};
pub use credentials::{MAX_CREDENTIALS, credentials};
pub use token::{InvalidToken, TokenText};
