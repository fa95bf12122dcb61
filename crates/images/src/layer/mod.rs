//! Layers: reading them as hostile input, unpacking them confined to one folder.
//!
//! | file | idea |
//! | --- | --- |
//! | `tape` | framing of tar: headers, bodies, padding |
//! | `pax` | records of extended headers |
//! | `path` | paths that cannot leave the root |
//! | `limits` | what a layer may cost |
//! | `entry` | what entries mean; what is refused |
//! | `stream` | decompression, metering, both digests |
//! | `write` | writing entries below one folder, never through a link |
//! | `unpack` | a layer of the store, whole or not at all |

pub(crate) mod entry;
pub(crate) mod limits;
pub(crate) mod path;
pub(crate) mod pax;
pub(crate) mod stream;
pub(crate) mod tape;
pub(crate) mod unpack;
pub(crate) mod write;

use std::io;

use thiserror::Error;

pub use self::{
    limits::{Exceeded, UnpackLimits},
    path::InvalidPath,
    pax::InvalidPax,
    stream::LayerSummary,
    tape::TapeError,
    write::WriteError,
};
use crate::{Digest, StoreError};

/// What a layer must turn out to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Of the packed bytes.
    pub digest: Option<Digest>,
    /// Of the unpacked bytes.
    pub diff_id: Option<Digest>,
}

/// Why a layer, or an archive that brings one, was not read or unpacked. Nothing of it is left.
#[derive(Debug, Error)]
pub enum LayerError {
    #[error("the content cannot be read or decompressed")]
    Read { source: io::Error },
    #[error("it is no proper archive of files")]
    Tape(#[source] TapeError),
    #[error("it is refused because of {entry}")]
    Refused {
        entry: String,
        #[source]
        reason: Refusal,
    },
    #[error("it is refused: {0}")]
    Exceeded(#[from] Exceeded),
    #[error("its digest is {found}, the manifest says {expected}")]
    WrongDigest { expected: Digest, found: Digest },
    #[error("its unpacked digest (diff_id) is {found}, the image's configuration says {expected}")]
    WrongDiffId { expected: Digest, found: Digest },
    #[error("cannot write {entry}")]
    Write { entry: String, source: WriteError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LayerError {
    /// Whether the layer's bytes are at fault, so that trying again cannot help.
    pub fn is_hostile_or_broken(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Store(_) => false,
            Self::Write { source, .. } => !matches!(source, WriteError::Io { .. }),
            _ => true,
        }
    }

    /// Finds the limit that a reader stopped at inside the error it had to dress it in.
    pub(crate) fn reading(error: io::Error) -> Self {
        match error.downcast::<Exceeded>() {
            Ok(exceeded) => Self::Exceeded(exceeded),
            Err(source) => Self::Read { source },
        }
    }
}

impl From<TapeError> for LayerError {
    fn from(error: TapeError) -> Self {
        match error {
            TapeError::Read { source, .. } => Self::reading(source),
            other => Self::Tape(other),
        }
    }
}

/// What is wrong with one entry.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    #[error("its path is refused")]
    Path(#[from] InvalidPath),
    #[error("its link's target is refused")]
    LinkTarget(#[source] InvalidPath),
    #[error("its symbolic link's target is empty, holds a NUL byte or has {limit} bytes or more")]
    SymlinkTarget { limit: usize },
    #[error("its extended header is refused")]
    Pax(#[from] InvalidPax),
    #[error("it is a device node; images must not bring devices")]
    Device,
    #[error("entries of type {code:?} are not supported")]
    Kind { code: String },
    #[error("its header says {header} bytes and its extended header {extended}")]
    SizeConflict { header: u64, extended: u64 },
    #[error("it is no file and yet has {size} bytes of content")]
    UnexpectedBody { size: u64 },
    #[error("two headers speak of {what}")]
    Ambiguous { what: &'static str },
    #[error("an extended header belongs to no entry")]
    ExtensionWithoutEntry,
    #[error("it marks nothing as removed: a whiteout is a file .wh.<name>")]
    Whiteout,
    #[error("the layer's root must be a folder")]
    RootIsNoFolder,
    #[error("its {field} {id} is no user or group number")]
    Owner { field: &'static str, id: u64 },
}
