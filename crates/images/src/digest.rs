//! Content digests: the only names that the store trusts.
//!
//! Only SHA-256 exists here. Another algorithm is refused by name instead of being carried along,
//! because everything that is named by a digest is also verified against it.

use std::{fmt, io, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The SHA-256 digest of a blob; written `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hex digits without the algorithm, as file names use them.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let digits = text.strip_prefix("sha256:").ok_or_else(|| InvalidDigest::new(text))?;
        let mut bytes = [0; 32];
        // Upper-case digits would give one blob two spellings.
        if digits.bytes().any(|digit| digit.is_ascii_uppercase()) || hex::decode_to_slice(digits, &mut bytes).is_err() {
            return Err(InvalidDigest::new(text));
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A text that is not a digest we accept.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{text:?} is not a digest: write sha256: and 64 lower-case hex digits")]
pub struct InvalidDigest {
    text: String,
}

impl InvalidDigest {
    fn new(text: &str) -> Self {
        Self { text: text.chars().take(100).collect() }
    }
}

/// Hashes and counts what passes.
#[derive(Clone, Default)]
pub struct Hasher {
    sha: Sha256,
    size: u64,
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// Bytes seen so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn digest(&self) -> Digest {
        Digest(self.sha.clone().finalize().into())
    }
}

/// A reader that hashes and counts what is read through it.
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R> HashingReader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default() }
    }

    pub fn hasher(&self) -> &Hasher {
        &self.hasher
    }
}

impl<R: io::Read> io::Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_well_known_one() {
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn other_algorithms_lengths_and_cases_are_refused_with_the_right_form() {
        let digits = "a".repeat(64);
        for text in [
            "".to_owned(),
            digits.clone(),
            format!("sha512:{digits}"),
            format!("sha256:{}", &digits[1..]),
            format!("sha256:{}", digits.to_uppercase()),
            format!("sha256:../{}", &digits[3..]),
        ] {
            let error = text.parse::<Digest>().unwrap_err().to_string();
            assert!(error.contains("64 lower-case hex digits"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_digest_reads_back(bytes: [u8; 32]) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }

        #[test]
        fn reading_in_pieces_hashes_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..500), piece in 1usize..40) {
            let mut reader = HashingReader::new(&bytes[..]);
            let mut buffer = vec![0; piece];
            while reader.read(&mut buffer).unwrap() > 0 {}
            prop_assert_eq!(reader.hasher().digest(), Digest::of(&bytes));
            prop_assert_eq!(reader.hasher().size(), bytes.len() as u64);
        }
    }
}
