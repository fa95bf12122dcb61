//! What the entries of a layer mean. Reads headers and their extensions into [`Entry`]s, and refuses
//! what no honest image holds. Pure over its reader: nothing is written here.

use std::io::Read;

use super::{
    LayerError, Refusal,
    limits::{Exceeded, UnpackLimits},
    path::{LayerPath, printable},
    pax::{Pax, Time},
    tape::{Body, Header, Tape},
};

/// The largest extended header that is read: it holds one path, one target and some attributes.
const MAX_EXTENSION: u64 = 1 << 20;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names with this prefix are bookkeeping of a file system that once defined whiteouts.
const WHITEOUT_METADATA: &[u8] = b".wh..wh.";

/// One thing that a layer adds or hides.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    pub path: LayerPath,
    pub kind: EntryKind,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Only `user.*` and `security.capability`: other namespaces speak to the host's kernel.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    Directory,
    File {
        size: u64,
    },
    /// The target is text for the container; nothing here ever follows it.
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of an earlier entry of this layer.
    HardLink {
        target: LayerPath,
    },
    /// Harmless: a machine may make its own.
    Fifo,
    /// Hides the entry's path in the layers below.
    Whiteout,
    /// Hides everything that the layers below have in this folder.
    Opaque,
}

/// Reads the entries of one unpacked layer.
pub struct Entries<R> {
    tape: Tape<R>,
    limits: UnpackLimits,
    count: u64,
}

/// What the headers before an entry said about it.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_path.is_none() && self.long_link.is_none()
    }
}

impl<R: Read> Entries<R> {
    pub fn new(reader: R, limits: UnpackLimits) -> Self {
        Self { tape: Tape::new(reader), limits, count: 0 }
    }

    /// The next entry; `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut extensions = Extensions::default();
        while let Some(header) = self.tape.next_header()? {
            self.count += 1;
            if self.count > self.limits.entries {
                return Err(Exceeded::Entries { limit: self.limits.entries }.into());
            }
            let told_twice = match header.kind() {
                b'x' => {
                    let body = self.tape.small_body(MAX_EXTENSION)?;
                    let pax = Pax::parse(&body).map_err(|error| self.refuse(&header, error))?;
                    extensions.pax.replace(pax).is_some()
                }
                b'L' => extensions.long_path.replace(self.long_text()?).is_some(),
                b'K' => extensions.long_link.replace(self.long_text()?).is_some(),
                b'g' => {
                    let body = self.tape.small_body(MAX_EXTENSION)?;
                    Pax::check_global(&body).map_err(|error| self.refuse(&header, error))?;
                    false
                }
                _ => match self.entry(&header, std::mem::take(&mut extensions))? {
                    Some(entry) => return Ok(Some(entry)),
                    None => false,
                },
            };
            if told_twice {
                return Err(self.refuse(&header, Refusal::Ambiguous { what: "two extended headers of one kind" }));
            }
        }
        if !extensions.is_empty() {
            return Err(LayerError::Refused { entry: "the end".to_owned(), reason: Refusal::ExtensionWithoutEntry });
        }
        Ok(None)
    }

    /// The content of the file that [`Self::next_entry`] gave last.
    pub fn body(&mut self) -> Body<'_, R> {
        self.tape.body()
    }

    /// Entries read so far, extensions included.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The reader, wherever it stands.
    pub fn into_inner(self) -> R {
        self.tape.into_inner()
    }

    fn long_text(&mut self) -> Result<Vec<u8>, LayerError> {
        let mut text = self.tape.small_body(MAX_EXTENSION)?;
        if text.last() == Some(&0) {
            text.pop();
        }
        Ok(text)
    }

    fn refuse(&self, header: &Header, reason: impl Into<Refusal>) -> LayerError {
        LayerError::Refused { entry: printable(&header.path()), reason: reason.into() }
    }

    /// Reads one entry proper; `None` for bookkeeping that means nothing here.
    fn entry(&self, header: &Header, extensions: Extensions) -> Result<Option<Entry>, LayerError> {
        let pax = extensions.pax.unwrap_or_default();
        let raw_path = one_of(pax.path, extensions.long_path, "the path");
        let raw_path = raw_path.map_err(|reason| self.refuse(header, reason))?.unwrap_or_else(|| header.path());
        let refuse = |reason: Refusal| LayerError::Refused { entry: format!("\"{}\"", printable(&raw_path)), reason };
        let path = LayerPath::parse(&raw_path, &self.limits).map_err(|error| refuse(error.into()))?;

        let size = self.tape.size(header)?;
        if let Some(extended) = pax.size.filter(|extended| *extended != size) {
            return Err(refuse(Refusal::SizeConflict { header: size, extended }));
        }
        let target = one_of(pax.link, extensions.long_link, "the link's target").map_err(refuse)?;
        let target = target.unwrap_or_else(|| header.link());

        let kind = match header.kind() {
            // Archives older than the type field mark a folder by its name.
            b'0' | 0 | b'7' if raw_path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' => EntryKind::File { size },
            b'1' => EntryKind::HardLink {
                target: LayerPath::parse(&target, &self.limits)
                    .map_err(|source| refuse(Refusal::LinkTarget(source)))?,
            },
            b'2' => {
                let valid = !target.is_empty() && target.len() < self.limits.path_length && !target.contains(&0);
                if !valid {
                    return Err(refuse(Refusal::SymlinkTarget { limit: self.limits.path_length }));
                }
                EntryKind::Symlink { target }
            }
            b'3' | b'4' => return Err(refuse(Refusal::Device)),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(refuse(Refusal::Kind { code: other.escape_ascii().to_string() })),
        };
        if size > 0 && !matches!(kind, EntryKind::File { .. }) {
            // Some tools skip such a body, others read it as the next header.
            return Err(refuse(Refusal::UnexpectedBody { size }));
        }
        let (path, kind) = match whiteout(&path).map_err(refuse)? {
            Marker::None => (path, kind),
            Marker::Bookkeeping => return Ok(None),
            Marker::Opaque(folder) => (folder, EntryKind::Opaque),
            Marker::Whiteout(hidden) => (hidden, EntryKind::Whiteout),
        };
        if path.is_root() && !matches!(kind, EntryKind::Directory | EntryKind::Opaque) {
            return Err(refuse(Refusal::RootIsNoFolder));
        }

        let owner = |extended: Option<u64>, range, field| {
            let id = extended.map_or_else(|| self.tape.number(header, range, field), Ok)?;
            // The largest id means "leave as it is" to the kernel.
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| refuse(Refusal::Owner { field, id }))
        };
        let mtime = match pax.mtime {
            Some(time) => time,
            None => Time {
                seconds: i64::try_from(self.tape.number(header, 136..148, "time")?).unwrap_or(i64::MAX),
                nanoseconds: 0,
            },
        };
        Ok(Some(Entry {
            kind,
            mode: (self.tape.number(header, 100..108, "mode")? & 0o7777) as u32,
            uid: owner(pax.uid, 108..116, "owner")?,
            gid: owner(pax.gid, 116..124, "group")?,
            mtime,
            xattrs: pax.xattrs.into_iter().filter_map(|(name, value)| Some((kept_xattr(name)?, value))).collect(),
            path,
        }))
    }
}

/// The value that one of two sources has; both at once could disagree.
fn one_of<T>(first: Option<T>, second: Option<T>, what: &'static str) -> Result<Option<T>, Refusal> {
    match (first, second) {
        (Some(_), Some(_)) => Err(Refusal::Ambiguous { what }),
        (first, second) => Ok(first.or(second)),
    }
}

enum Marker {
    None,
    Bookkeeping,
    Opaque(LayerPath),
    Whiteout(LayerPath),
}

fn whiteout(path: &LayerPath) -> Result<Marker, Refusal> {
    if let Some((folder, name)) = path.split() {
        if folder.parts().any(|part| part.starts_with(WHITEOUT)) {
            // A marker is a file; what would lie inside one hides nothing and means nothing.
            return if folder.parts().any(|part| part.starts_with(WHITEOUT_METADATA)) {
                Ok(Marker::Bookkeeping)
            } else {
                Err(Refusal::Whiteout)
            };
        }
        if name == OPAQUE {
            return Ok(Marker::Opaque(folder));
        }
        if name.starts_with(WHITEOUT_METADATA) {
            return Ok(Marker::Bookkeeping);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return match hidden {
                b"" | b"." | b".." => Err(Refusal::Whiteout),
                _ => Ok(Marker::Whiteout(folder.child(hidden))),
            };
        }
    }
    Ok(Marker::None)
}

fn kept_xattr(name: Vec<u8>) -> Option<String> {
    let name = String::from_utf8(name).ok()?;
    let is_user = name.strip_prefix("user.").is_some_and(|rest| !rest.is_empty() && !rest.contains('\0'));
    (is_user || name == "security.capability").then_some(name)
}
