//! Paths inside a layer: always below its root, always spelled one way.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::Path};

use thiserror::Error;

use super::limits::UnpackLimits;

/// The longest name of one file, as Linux has it.
const MAX_NAME: usize = 255;

/// A path relative to the layer's root, without empty, `.` and `..` parts. Empty: the root itself.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct LayerPath(Vec<u8>);

/// Why a path cannot be one of a layer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InvalidPath {
    #[error("it leads out of the image's root with \"..\"")]
    Escapes,
    #[error("it holds a NUL byte")]
    Nul,
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("it is deeper than {limit} folders")]
    TooDeep { limit: usize },
    #[error("one of its names is longer than {MAX_NAME} bytes")]
    LongName,
}

impl LayerPath {
    /// Reads a path as an archive spells it. A leading `/` or `./` means the layer's root, as in
    /// every archive that image builders write.
    pub fn parse(raw: &[u8], limits: &UnpackLimits) -> Result<Self, InvalidPath> {
        if raw.is_empty() {
            return Err(InvalidPath::Empty);
        }
        if raw.len() > limits.path_length {
            return Err(InvalidPath::TooLong { limit: limits.path_length });
        }
        if raw.contains(&0) {
            return Err(InvalidPath::Nul);
        }
        let mut path = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for part in raw.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(InvalidPath::Escapes),
                _ if part.len() > MAX_NAME => return Err(InvalidPath::LongName),
                _ => {}
            }
            depth += 1;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(part);
        }
        if depth > limits.depth {
            return Err(InvalidPath::TooDeep { limit: limits.depth });
        }
        Ok(Self(path))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The parent and the last name; `None` for the root.
    pub fn split(&self) -> Option<(LayerPath, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (Self(self.0[..slash].to_vec()), &self.0[slash + 1..]),
            None => (Self::default(), &self.0),
        })
    }

    /// This folder's entry `name`, which must be one plain name.
    pub(super) fn child(&self, name: &[u8]) -> Self {
        if self.is_root() { Self(name.to_vec()) } else { Self([&self.0, &b"/"[..], name].concat()) }
    }

    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    /// For system calls relative to the root's descriptor; the root itself is `.`.
    pub fn as_path(&self) -> &Path {
        Path::new(if self.is_root() { OsStr::new(".") } else { OsStr::from_bytes(&self.0) })
    }

    /// Bytes that it takes in memory.
    pub(super) fn weight(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", printable(&self.0))
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Foreign bytes for a message: escaped and not too long.
pub fn printable(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    let shown = bytes[..bytes.len().min(LONGEST)].escape_ascii().to_string();
    if bytes.len() > LONGEST { shown + "…" } else { shown }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String, InvalidPath> {
        LayerPath::parse(text.as_bytes(), &UnpackLimits::default()).map(|path| path.to_string())
    }

    #[test]
    fn every_spelling_of_a_path_becomes_one() {
        for spelling in ["etc/passwd", "./etc/passwd", "/etc/passwd", "//etc/./passwd/", "etc//passwd"] {
            assert_eq!(parse(spelling).as_deref(), Ok("/etc/passwd"));
        }
        assert_eq!(parse("./").as_deref(), Ok("/"));
    }

    #[test]
    fn paths_out_of_the_root_and_monsters_are_refused() {
        assert_eq!(parse("../etc"), Err(InvalidPath::Escapes));
        assert_eq!(parse("a/../b"), Err(InvalidPath::Escapes));
        assert_eq!(parse("a/.."), Err(InvalidPath::Escapes));
        assert_eq!(parse(""), Err(InvalidPath::Empty));
        assert_eq!(parse("a\0b"), Err(InvalidPath::Nul));
        assert_eq!(parse(&"n".repeat(256)), Err(InvalidPath::LongName));
        assert_eq!(parse(&"a/".repeat(65)), Err(InvalidPath::TooDeep { limit: 64 }));
        assert_eq!(parse(&"aaaa/".repeat(1000)), Err(InvalidPath::TooLong { limit: 4096 }));
    }

    proptest! {
        #[test]
        fn a_parsed_path_has_only_plain_parts(raw in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..60)) {
            if let Ok(path) = LayerPath::parse(&raw, &UnpackLimits::default()) {
                if !path.is_root() {
                    prop_assert!(path.as_path().components().all(|part| matches!(part, Component::Normal(_))));
                }
                if let Some((parent, name)) = path.split() {
                    prop_assert_eq!(parent.child(name), path);
                }
            }
        }
    }
}
