//! Names of images: `[host[:port]/]repository[:tag][@digest]`.
//!
//! A name without a host means our own registry. The first part is a host when it holds a dot or a
//! colon, or is `localhost`, as every container tool reads it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::{Digest, digest::InvalidDigest};

/// Longest accepted reference, in bytes; longer texts are refused unread.
const MAX_REFERENCE: usize = 1024;
/// Longest repository, in bytes: it becomes a file name of the tag index.
const MAX_REPOSITORY: usize = 200;
const MAX_TAG: usize = 128;

/// An image as a user names it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ImageReference {
    /// `None`: our own registry.
    pub registry: Option<RegistryHost>,
    pub repository: Repository,
    pub tag: Option<Tag>,
    /// Wins over the tag.
    pub digest: Option<Digest>,
}

impl ImageReference {
    /// What the name points at: the digest, else the tag, else the tag `latest`.
    pub fn target(&self) -> Target {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Target::Digest(*digest),
            (None, Some(tag)) => Target::Tag(tag.clone()),
            (None, None) => Target::Tag(Tag::latest()),
        }
    }

    /// The same image, fixed to `digest`.
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        if text.len() > MAX_REFERENCE {
            return Err(InvalidReference::TooLong { length: text.len() });
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first.parse()?), rest),
            _ => (None, name),
        };
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag.parse()?)),
            None => (path, None),
        };
        Ok(Self { registry, repository: repository.parse()?, tag, digest })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// What is asked of a repository: a manifest by tag or by digest.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Target {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        // No tag holds a colon, every digest does.
        Ok(if text.contains(':') { Self::Digest(text.parse()?) } else { Self::Tag(text.parse()?) })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => fmt::Display::fmt(tag, f),
            Self::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

/// Why a text names no image.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InvalidReference {
    #[error("an image name of {length} bytes is too long: at most {MAX_REFERENCE}")]
    TooLong { length: usize },
    #[error("{text:?} is not a registry host: write a name or an address, and a port after a colon if it has one")]
    Host { text: String },
    #[error(
        "{text:?} is not a repository: lower-case letters and digits, joined by single . _ __ or dashes, \
         in parts separated by /, at most {MAX_REPOSITORY} characters"
    )]
    Repository { text: String },
    #[error("{text:?} is not a tag: letters, digits, _ . -, not beginning with . or -, at most {MAX_TAG} characters")]
    Tag { text: String },
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

/// The longest piece of a refused text that an error repeats.
fn excerpt(text: &str) -> String {
    text.chars().take(200).collect()
}

/// A text type that is checked once, when parsed.
macro_rules! checked_text {
    ($name:ident, $error:ident, $valid:expr) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidReference;

            fn from_str(text: &str) -> Result<Self, InvalidReference> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidReference::$error { text: excerpt(text) })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// Host and optional port of a registry.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RegistryHost(String);

checked_text!(RegistryHost, Host, |text| {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host_is_valid = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            host.len() <= 253
                && host.split('.').all(|label| {
                    !label.is_empty()
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                })
        }
    };
    let port_is_valid = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    host_is_valid && port_is_valid
});

impl RegistryHost {
    /// The host without its port; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        if let Some(end) = self.0.find(']') {
            return &self.0[1..end];
        }
        self.0.split_once(':').map_or(&self.0, |(host, _)| host)
    }

    /// Whether traffic to it never leaves this machine.
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// A repository's path, such as `my-app/web`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Repository(String);

checked_text!(Repository, Repository, |text| text.len() <= MAX_REPOSITORY && text.split('/').all(is_path_part));

impl Repository {
    /// Whether a reference without a host can name it: its first part must not look like a host.
    pub fn can_be_ours(&self) -> bool {
        !self.app().contains('.') && self.app() != "localhost"
    }

    /// The first part: in our own registry the app that owns it.
    pub fn app(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(app, _)| app)
    }
}

/// Runs of `[a-z0-9]`, joined by one dot, one or two underscores, or any number of dashes.
fn is_path_part(part: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_are_words = bytes.first().is_some_and(|b| is_word(*b)) && bytes.last().is_some_and(|b| is_word(*b));
    ends_are_words
        && bytes
            .split(|byte| is_word(*byte))
            .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|byte| *byte == b'-'))
}

/// A tag, such as `v1.2`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Tag(String);

checked_text!(Tag, Tag, |text| {
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
});

impl Tag {
    /// What a name without tag and digest means.
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str) -> (Option<String>, String, Option<String>, bool) {
        let reference: ImageReference = text.parse().unwrap();
        assert_eq!(reference.to_string(), text);
        (
            reference.registry.map(|registry| registry.to_string()),
            reference.repository.to_string(),
            reference.tag.map(|tag| tag.to_string()),
            reference.digest.is_some(),
        )
    }

    #[test]
    fn names_split_as_container_tools_split_them() {
        let own = |text: &str| text.to_owned();
        let digest = Digest::of(b"x");
        assert_eq!(parts("my-app/web"), (None, own("my-app/web"), None, false));
        assert_eq!(parts("my-app:v1"), (None, own("my-app"), Some(own("v1")), false));
        assert_eq!(parts("localhost/a:b"), (Some(own("localhost")), own("a"), Some(own("b")), false));
        assert_eq!(parts("127.0.0.1:5000/a/b"), (Some(own("127.0.0.1:5000")), own("a/b"), None, false));
        assert_eq!(parts("[::1]:5000/a"), (Some(own("[::1]:5000")), own("a"), None, false));
        assert_eq!(parts("ghcr.io/o/r/s:1"), (Some(own("ghcr.io")), own("o/r/s"), Some(own("1")), false));
        assert_eq!(parts(&format!("a.b/c:d@{digest}")), (Some(own("a.b")), own("c"), Some(own("d")), true));
    }

    #[test]
    fn a_name_points_at_its_digest_then_its_tag_then_latest() {
        let digest = Digest::of(b"x");
        let target = |text: &str| text.parse::<ImageReference>().unwrap().target();
        assert_eq!(target("a"), Target::Tag(Tag::latest()));
        assert_eq!(target("a:b"), Target::Tag("b".parse().unwrap()));
        assert_eq!(target(&format!("a:b@{digest}")), Target::Digest(digest));
    }

    #[test]
    fn wrong_names_are_refused_naming_the_wrong_part() {
        for (text, part) in [
            ("", "repository"),
            ("/", "repository"),
            ("A/b", "repository"),
            ("a//b", "repository"),
            ("a/../b", "repository"),
            ("../a", "host"),
            ("a/-b", "repository"),
            ("a/b._c", "repository"),
            ("a___b", "repository"),
            ("a b", "repository"),
            ("a:", "tag"),
            ("a:b/c", "host"),
            ("a:-x", "tag"),
            ("a:b:c", "tag"),
            ("x.y:99999/a", "host"),
            ("x.y:+5/a", "host"),
            ("[::g]:5/a", "host"),
            ("x..y/a", "host"),
            ("a@sha256:12", "digest"),
            ("a@@", "digest"),
            (&"a".repeat(201), "repository"),
            (&"a".repeat(5000), "too long"),
        ] {
            let error = text.parse::<ImageReference>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn loopback_hosts_are_known_as_such() {
        let is_loopback = |text: &str| text.parse::<RegistryHost>().unwrap().is_loopback();
        assert!(is_loopback("localhost:5000") && is_loopback("127.8.0.1") && is_loopback("[::1]:80"));
        assert!(!is_loopback("localhost.example:80") && !is_loopback("10.0.0.1"));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(
            registry in proptest::option::of("[a-z]{1,8}\\.[a-z]{2,5}(:[1-9][0-9]{0,3})?"),
            repository in "[a-z0-9]{1,6}((_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,6}(\\.[a-z]{1,3})?){0,3}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9._-]{0,20}"),
            content in proptest::option::of(any::<u8>()),
        ) {
            let reference = ImageReference {
                registry: registry.map(|text| text.parse().unwrap()),
                repository: repository.parse().unwrap(),
                tag: tag.map(|text| text.parse().unwrap()),
                digest: content.map(|byte| Digest::of(&[byte])),
            };
            prop_assert_eq!(reference.to_string().parse::<ImageReference>(), Ok(reference));
        }

        #[test]
        fn any_text_is_refused_or_prints_itself(text in "\\PC{0,60}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
