//! Domain names in the form in which they travel, in lower case: comparing names is comparing bytes.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use super::section::Malformed;

/// Longest label, without its length.
pub const MAX_LABEL: usize = 63;
/// Longest name on the wire, with all lengths and the root.
pub const MAX_NAME: usize = 255;
/// Each jump goes backwards; more of them than labels fit is an attack.
const MAX_JUMPS: usize = 127;

/// A domain name, ending at the root. Lives on the stack, so that reading one allocates nothing.
#[derive(Clone, Copy)]
pub struct Name {
    length: u8,
    bytes: [u8; MAX_NAME],
}

/// A text that is no domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a domain name: labels of 1 to 63 characters without spaces, joined by dots, 253 at most")]
pub struct InvalidName {
    given: String,
}

impl Name {
    /// The name above all others.
    pub const ROOT: Self = Self { length: 1, bytes: [0; MAX_NAME] };

    /// Reads the name at `at` of a message, following compression; also where what comes after begins.
    pub fn read(message: &[u8], at: usize) -> Result<(Self, usize), Malformed> {
        let mut name = Self { length: 0, bytes: [0; MAX_NAME] };
        let (mut at, mut after, mut jumps) = (at, None, 0);
        loop {
            let length = usize::from(*message.get(at).ok_or(Malformed)?);
            match length {
                0 => {
                    name.push(&[0])?;
                    return Ok((name, after.unwrap_or(at + 1)));
                }
                1..=MAX_LABEL => {
                    name.push(message.get(at..=at + length).ok_or(Malformed)?)?;
                    at += 1 + length;
                }
                0xc0.. => {
                    let low = usize::from(*message.get(at + 1).ok_or(Malformed)?);
                    let target = (length & 0x3f) << 8 | low;
                    jumps += 1;
                    if target >= at || jumps > MAX_JUMPS {
                        return Err(Malformed);
                    }
                    after.get_or_insert(at + 2);
                    at = target;
                }
                _ => return Err(Malformed),
            }
        }
    }

    /// Adds a label with its length before it (or the root), in lower case. Lengths are no letters.
    fn push(&mut self, label: &[u8]) -> Result<(), Malformed> {
        let begin = usize::from(self.length);
        let place = self.bytes.get_mut(begin..begin + label.len()).ok_or(Malformed)?;
        place.copy_from_slice(label);
        place.make_ascii_lowercase();
        // At most MAX_NAME, which fits.
        self.length += label.len() as u8;
        Ok(())
    }

    /// As on the wire, uncompressed.
    pub fn wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// From the leftmost to the one under the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.offsets().map(|at| {
            let length = usize::from(self.bytes[at]);
            &self.bytes[at + 1..=at + length]
        })
    }

    /// Where each label's length is, from the left, the root's not among them.
    fn offsets(&self) -> impl Iterator<Item = usize> + Clone {
        let mut at = 0;
        std::iter::from_fn(move || {
            let length = usize::from(self.bytes[at]);
            let this = at;
            at += 1 + length;
            (length > 0).then_some(this)
        })
    }

    pub fn label_count(&self) -> usize {
        self.offsets().count()
    }

    /// Every name above and including this one, down to the root, with where it begins in this one.
    pub fn suffixes(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let root = usize::from(self.length) - 1;
        self.offsets().chain([root]).map(|at| (at, &self.wire()[at..]))
    }

    /// Whether this is `zone` or below it.
    pub fn is_within(&self, zone: &Name) -> bool {
        self.suffixes().any(|(_, suffix)| suffix == zone.wire())
    }

    /// What is left of `zone` as text with dots, empty for `zone` itself. None when the name is not
    /// within the zone, or has labels that no host has (other than letters, digits, `-`, `_`).
    pub fn below(&self, zone: &Name) -> Option<String> {
        let (at, _) = self.suffixes().find(|(_, suffix)| *suffix == zone.wire())?;
        let mut text = String::with_capacity(at);
        for label in self.labels().take(self.label_count() - zone.label_count()) {
            if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*')) {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(std::str::from_utf8(label).ok()?);
        }
        Some(text)
    }

    /// The name without its leftmost label; the root's is the root.
    pub fn parent(&self) -> Self {
        let skip = usize::from(self.bytes[0]) + 1;
        let Some(rest) = self.wire().get(skip..).filter(|rest| !rest.is_empty()) else { return Self::ROOT };
        let mut parent = Self { length: rest.len() as u8, bytes: [0; MAX_NAME] };
        parent.bytes[..rest.len()].copy_from_slice(rest);
        parent
    }

    /// The name with a label put before it; none when label or name became too long.
    pub fn child(&self, label: &[u8]) -> Option<Self> {
        if label.is_empty() || label.len() > MAX_LABEL {
            return None;
        }
        let mut name = Self { length: 0, bytes: [0; MAX_NAME] };
        name.push(&[label.len() as u8]).ok()?;
        name.push(label).ok()?;
        name.push(self.wire()).ok()?;
        Some(name)
    }

    /// The order of RFC 4034 section 6.1, in which a zone's names stand.
    pub fn canonical_cmp(&self, other: &Self) -> Ordering {
        let (own, others): (Vec<_>, Vec<_>) = (self.labels().collect(), other.labels().collect());
        own.iter().rev().cmp(others.iter().rev())
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.wire() == other.wire()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.wire().hash(state);
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.wire()
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    /// Without escapes; a dot at the end is allowed, `.` is the root.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName { given: text.chars().take(80).collect() };
        let mut name = Self { length: 0, bytes: [0; MAX_NAME] };
        let labels = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(invalid());
        }
        for label in labels.split('.').filter(|_| !labels.is_empty()) {
            let sound = (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic());
            if !sound {
                return Err(invalid());
            }
            name.push(&[label.len() as u8]).and_then(|()| name.push(label.as_bytes())).map_err(|_| invalid())?;
        }
        name.push(&[0]).map_err(|_| invalid())?;
        Ok(name)
    }
}

impl fmt::Display for Name {
    /// As zone files have it, with what is no plain character escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", *byte as char)?,
                    byte if byte.is_ascii_graphic() => write!(f, "{}", *byte as char)?,
                    byte => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        if self.length == 1 { f.write_str(".") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}
