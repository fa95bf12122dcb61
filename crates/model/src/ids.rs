//! Identifiers and names. Formats follow the Machines API: a machine id is 14 lower-case hex
//! characters, versions and events are ULIDs, app and node names are DNS labels.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ulid::Ulid;

/// A text that is not the identifier it should be; says what was given and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a valid {what}: {expected}")]
pub struct InvalidId {
    pub what: &'static str,
    pub given: String,
    pub expected: &'static str,
}

impl InvalidId {
    pub(crate) fn new(what: &'static str, given: &str, expected: &'static str) -> Self {
        // A hostile caller may send megabytes as a "name"; the error quotes only the beginning.
        let given = given.chars().take(80).collect();
        Self { what, given, expected }
    }
}

/// Implements `Display`-based serialisation and `FromStr`-based deserialisation; to the API's
/// description these are texts.
macro_rules! serde_as_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(<D::Error as serde::de::Error>::custom)
            }
        }
        impl utoipa::ToSchema for $name {}
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                String::schema()
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }
    };
}
pub(crate) use serde_as_text;

/// A machine's id: 14 lower-case hex characters. Ids are random; nothing is encoded in them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(u64);

impl MachineId {
    const BITS: u32 = 56;

    /// The id made of the low 56 bits of `random`.
    pub fn from_random(random: u64) -> Self {
        Self(random & ((1 << Self::BITS) - 1))
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:014x}", self.0)
    }
}

impl FromStr for MachineId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let well_formed = text.len() == 14 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !well_formed {
            return Err(InvalidId::new("machine id", text, "14 characters of 0-9 and a-f"));
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| InvalidId::new("machine id", text, "14 characters of 0-9 and a-f"))
    }
}
serde_as_text!(MachineId);

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// Made from Unix milliseconds and 80 random bits (the low ones of `random`).
            pub fn from_parts(unix_ms: u64, random: u128) -> Self {
                Self(Ulid::from_parts(unix_ms, random))
            }

            /// Unix milliseconds at which this id was minted.
            pub fn timestamp_ms(&self) -> u64 {
                self.0.timestamp_ms()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Ulid::from_string(text)
                    .map(Self)
                    .map_err(|_| InvalidId::new($what, text, "a ULID of 26 characters"))
            }
        }
        serde_as_text!($name);
    };
}

ulid_id!(
    /// One version of a machine's configuration; the API calls it `instance_id` as well.
    MachineVersion,
    "machine version"
);
ulid_id!(
    /// One entry of a machine's event list.
    EventId,
    "event id"
);

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if is_dns_label(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId::new(
                        $what,
                        text,
                        "1 to 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit",
                    ))
                }
            }
        }
        serde_as_text!($name);
    };
}

/// RFC 1123 label, lower case only.
fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

label!(
    /// An app's name, unique on the platform; the first label of its default hostname.
    AppName,
    "app name"
);
label!(
    /// A server of the platform, unique among its nodes and never reused after removal.
    NodeName,
    "node name"
);
label!(
    /// What a user calls a device of theirs, unique in its organization; a label of its DNS name.
    DeviceName,
    "device name"
);
label!(
    /// An organization's short name, as used in URLs.
    OrgSlug,
    "organization"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_ids_are_fourteen_hex_characters() {
        let id = MachineId::from_random(u64::MAX);
        assert_eq!(id.to_string(), "ffffffffffffff");
        assert_eq!("0000000000000a".parse::<MachineId>().unwrap(), MachineId::from_random(10));
        for bad in ["", "73d8d46dbee58", "73d8d46dbee5899", "73D8d46dbee589", "+3d8d46dbee589"] {
            assert!(bad.parse::<MachineId>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "my-app", "a1", &"x".repeat(63)] {
            assert!(good.parse::<AppName>().is_ok(), "{good} was refused");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"x".repeat(64), "ä"] {
            assert!(bad.parse::<AppName>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn errors_quote_only_the_beginning_of_a_huge_text() {
        let error = "x".repeat(1 << 20).parse::<AppName>().unwrap_err();
        assert!(error.to_string().len() < 300);
    }

    #[test]
    fn ids_survive_json() {
        let version = MachineVersion::from_parts(1_700_000_000_000, 7);
        let json = serde_json::to_string(&version).unwrap();
        assert_eq!(serde_json::from_str::<MachineVersion>(&json).unwrap(), version);
        assert_eq!(version.timestamp_ms(), 1_700_000_000_000);
    }
}
