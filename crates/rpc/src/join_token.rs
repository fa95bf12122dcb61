//! Join tokens: a secret that works once, and the fingerprint of the root certificate, so that a
//! joining node talks to this platform and to no other. Text: `atoll-join.<secret>.<fingerprint>`.

use std::fmt;
use std::str::FromStr;

/// A token as the operator carries it from control to the new node.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// 32 hex characters.
    pub secret: String,
    /// SHA-256 of the root certificate, 64 hex characters.
    pub root_fingerprint: String,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "atoll-join.{}.{}", self.secret, self.root_fingerprint)
    }
}

impl fmt::Debug for JoinToken {
    /// Never prints the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("root_fingerprint", &self.root_fingerprint).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a join token: it should read atoll-join.<secret>.<fingerprint>, as `atoll node token create` printed it"
)]
pub struct InvalidJoinToken;

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let mut parts = text.trim().split('.');
        let (Some("atoll-join"), Some(secret), Some(fingerprint), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidJoinToken);
        };
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if !is_hex(secret, 32) || !is_hex(fingerprint, 64) {
            return Err(InvalidJoinToken);
        }
        Ok(Self { secret: secret.to_owned(), root_fingerprint: fingerprint.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_their_text() {
        let token = JoinToken { secret: "0".repeat(32), root_fingerprint: "f".repeat(64) };
        assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token);
        assert_eq!(format!(" {token}\n").parse::<JoinToken>().unwrap(), token);
    }

    #[test]
    fn truncated_tokens_are_refused() {
        let text = JoinToken { secret: "0".repeat(32), root_fingerprint: "f".repeat(64) }.to_string();
        for end in 0..text.len() {
            assert!(text[..end].parse::<JoinToken>().is_err());
        }
    }
}
