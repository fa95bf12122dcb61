//! Keys as types, and as the text that WireGuard's own tools read and write.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use boringtun::x25519;
use zeroize::Zeroizing;

/// Bytes of every key.
const LENGTH: usize = 32;

/// What is wrong with a key's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 32 bytes in base64")]
pub struct KeyError;

fn decode(text: &str) -> Result<Zeroizing<[u8; LENGTH]>, KeyError> {
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(text.trim()).map_err(|_| KeyError)?);
    Ok(Zeroizing::new(bytes.as_slice().try_into().map_err(|_| KeyError)?))
}

/// A node's secret. Wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<[u8; LENGTH]>);

impl PrivateKey {
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(rand::random())
    }

    /// Clamped as Curve25519 wants it, so that the same secret has one form only.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; LENGTH]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Self(Zeroizing::new(bytes))
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.secret()).to_bytes())
    }

    /// For those who store it sealed, and for the kernel.
    #[must_use]
    pub fn expose(&self) -> &[u8; LENGTH] {
        &self.0
    }

    pub(crate) fn secret(&self) -> x25519::StaticSecret {
        x25519::StaticSecret::from(*self.0)
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(Self::from_bytes(*decode(text)?))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

/// Who a peer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; LENGTH]);

impl PublicKey {
    pub(crate) fn point(&self) -> x25519::PublicKey {
        x25519::PublicKey::from(self.0)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(Self(*decode(text)?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A secret that both ends mix into their handshakes. Wiped when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(Zeroizing<[u8; LENGTH]>);

impl PresharedKey {
    #[must_use]
    pub fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    #[must_use]
    pub fn expose(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_protocols_own_tools() {
        // Made with `wg genkey` and `wg pubkey`.
        let private: PrivateKey = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=".parse().unwrap();
        assert_eq!(private.public().to_string(), "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=");
        assert_eq!(private.public().to_string().parse::<PublicKey>(), Ok(private.public()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBg==", "not base64 at all, but forty-four letters"] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let private = PrivateKey::from_bytes([7; 32]);
        assert_eq!(format!("{private:?}"), format!("PrivateKey(of {})", private.public()));
        assert_eq!(format!("{:?}", PresharedKey::from_bytes([7; 32])), "PresharedKey(…)");
    }
}
