//! The texts that people and programs hold. Shown once, when made.

use std::fmt;
use std::str::FromStr;

use atoll_store::TokenHash;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

const PREFIX: &str = "atoll_";
const SECRET_BYTES: usize = 32;
/// Unpadded base64 of the secret.
const SECRET_CHARS: usize = 43;

/// A token's text: `atoll_` and 43 characters. Neither `Debug` nor an error ever shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenText(String);

/// A text that is no token of this platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a token begins with \"{PREFIX}\" and has {SECRET_CHARS} more characters")]
pub struct InvalidToken;

impl TokenText {
    /// A new token from 32 random bytes.
    pub fn from_random(random: [u8; SECRET_BYTES]) -> Self {
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
    }

    /// A new token from the system's randomness.
    pub fn generate() -> Self {
        Self::from_random(rand::random())
    }

    /// The text itself, to be shown to whoever asked for the token.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// By which the records know it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl FromStr for TokenText {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let secret = text.strip_prefix(PREFIX).ok_or(InvalidToken)?;
        let well_formed =
            secret.len() == SECRET_CHARS && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if well_formed { Ok(Self(text.to_owned())) } else { Err(InvalidToken) }
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_their_text_and_hide_in_debug() {
        let token = TokenText::from_random([7; 32]);
        assert_eq!(token.reveal().parse::<TokenText>().unwrap(), token);
        assert!(!format!("{token:?}").contains("atoll_"));
        assert_ne!(TokenText::generate(), TokenText::generate());
        for bad in ["", "atoll_", "fm2_abc", "atoll_short", &format!("atoll_{}", "%".repeat(43))] {
            assert!(bad.parse::<TokenText>().is_err(), "{bad} was accepted");
        }
    }
}
