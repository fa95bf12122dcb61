//! The replica on disk, so that a restarted process serves at once, also when nobody is there to ask.
//!
//! ```text
//! "ATOLLCAT" | version, 4 bytes | SHA-256 of what follows | sealed body
//! ```
//!
//! The body holds frames (length, 4 bytes; message), one or more rows messages per owner. It contains
//! certificates' private keys, so the caller must give a seal; what seals it is none of this module's
//! business. A file that is not whole is refused as a whole: the network has it all anyway.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atoll_model::{Owner, RowVersion};
use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::protocol::codec::Malformed;
use crate::protocol::message::{Base, Event, Part, Write};
use crate::protocol::saved::{Saved, SavedOwner};
use crate::watch::{BoxError, ReplicaHandle};

const MAGIC: &[u8; 8] = b"ATOLLCAT";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 32;
/// Larger files are none of ours.
const MAX_FILE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// 16 of the largest rows still make a message of acceptable size.
const ROWS_PER_FRAME: usize = 16;

/// Encrypts and authenticates the body of the file.
pub trait Seal: Send + Sync {
    fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, BoxError>;
    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, BoxError>;
}

#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("cannot seal the catalogue for {path}")]
    Seal {
        path: PathBuf,
        #[source]
        source: BoxError,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why a saved catalogue is not used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{path} is not there")]
    Absent { path: PathBuf },
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no saved catalogue: {reason}")]
    Foreign { path: PathBuf, reason: &'static str },
    #[error("{path} is of version {version}, this program reads {VERSION}")]
    Version { path: PathBuf, version: u32 },
    #[error("{path} is damaged: its checksum differs")]
    Checksum { path: PathBuf },
    #[error("{path} cannot be opened with this node's key")]
    Sealed {
        path: PathBuf,
        #[source]
        source: BoxError,
    },
    #[error("{path} has an unreadable body")]
    Body {
        path: PathBuf,
        #[source]
        source: Malformed,
    },
}

/// Writes the file so that after a crash either the old one or the new one is there, whole.
pub fn save(path: &Path, saved: &Saved, seal: &dyn Seal) -> Result<(), SaveError> {
    let plain = encode_body(saved.by_owner());
    let sealed = seal.seal(&plain).map_err(|source| SaveError::Seal { path: path.into(), source })?;
    write_whole(path, &sealed).map_err(|source| SaveError::Write { path: path.into(), source })
}

fn write_whole(path: &Path, sealed: &[u8]) -> io::Result<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(".next");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(MAGIC)?;
    file.write_all(&VERSION.to_le_bytes())?;
    file.write_all(&Sha256::digest(sealed))?;
    file.write_all(sealed)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// The saved rows, for [`crate::protocol::Replica::restore`].
pub fn load(path: &Path, seal: &dyn Seal) -> Result<BTreeMap<Owner, SavedOwner>, LoadError> {
    let content = read_bounded(path)?;
    let foreign = |reason| LoadError::Foreign { path: path.into(), reason };
    let Some((header, sealed)) = content.split_at_checked(HEADER_BYTES) else {
        return Err(foreign("it is shorter than a header"));
    };
    let (magic, header) = header.split_at(MAGIC.len());
    let (mut version, checksum) = header.split_at(4);
    if magic != MAGIC {
        return Err(foreign("it begins with something else"));
    }
    let version = version.get_u32_le();
    if version != VERSION {
        return Err(LoadError::Version { path: path.into(), version });
    }
    if Sha256::digest(sealed)[..] != *checksum {
        return Err(LoadError::Checksum { path: path.into() });
    }
    let plain = seal.open(sealed).map_err(|source| LoadError::Sealed { path: path.into(), source })?;
    decode_body(plain.into()).map_err(|source| LoadError::Body { path: path.into(), source })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => LoadError::Absent { path: path.into() },
        _ => LoadError::Read { path: path.into(), source },
    };
    let file = File::open(path).map_err(failed)?;
    let mut content = Vec::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(failed)?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(LoadError::Foreign { path: path.into(), reason: "it is too large" });
    }
    Ok(content)
}

pub(crate) fn encode_body(owners: BTreeMap<Owner, SavedOwner>) -> Vec<u8> {
    let mut body = Vec::new();
    for (owner, SavedOwner { position, rows }) in owners {
        let write = |(key, row): &(_, Bytes)| Write {
            key: Clone::clone(key),
            sequence: position.sequence,
            body: Some(row.clone()),
        };
        // An owner without rows has a position all the same.
        let chunks = rows.chunks(ROWS_PER_FRAME).map(|chunk| chunk.iter().map(write).collect());
        let empty = rows.is_empty().then(Vec::new);
        for (index, writes) in chunks.chain(empty).enumerate() {
            let part = Part {
                owner: owner.clone(),
                epoch: position.epoch,
                base: Base::Nothing,
                index: index as u32,
                writes,
                through: Some(position.sequence),
            };
            let message = Event::Rows(part).encode();
            body.extend((message.len() as u32).to_le_bytes());
            body.extend(message);
        }
    }
    body
}

pub(crate) fn decode_body(mut body: Bytes) -> Result<BTreeMap<Owner, SavedOwner>, Malformed> {
    let mut owners: BTreeMap<Owner, SavedOwner> = BTreeMap::new();
    while body.has_remaining() {
        if body.remaining() < 4 {
            return Err(Malformed::Truncated("frame length"));
        }
        let length = body.get_u32_le() as usize;
        if body.remaining() < length {
            return Err(Malformed::Truncated("frame"));
        }
        // Rows of kinds that this version does not know are left out, as on the wire.
        let (Event::Rows(part), _) = Event::decode(body.split_to(length))? else {
            return Err(Malformed::Unreadable("frame"));
        };
        let sequence = part.through.ok_or(Malformed::Unreadable("position"))?;
        let saved = owners.entry(part.owner).or_default();
        saved.position = RowVersion { epoch: part.epoch, sequence };
        saved.rows.extend(part.writes.into_iter().filter_map(|write| Some((write.key, write.body?))));
    }
    Ok(owners)
}

/// Saves the replica when it moved, at most once per `period`, and a last time at `stop`. A failed
/// save is logged and tried again with the next one.
pub async fn keep_saved(
    replica: ReplicaHandle,
    path: PathBuf,
    seal: Arc<dyn Seal>,
    period: Duration,
    stop: CancellationToken,
) {
    let mut moved = replica.subscribe();
    // It may have moved before this task first ran.
    moved.mark_changed();
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(period) => false,
        };
        let has_moved = moved.has_changed().unwrap_or(false);
        if has_moved {
            moved.mark_unchanged();
            let (saved, path, seal) = (replica.save(), path.clone(), seal.clone());
            let result = tokio::task::spawn_blocking(move || save(&path, &saved, &*seal)).await;
            let error: Option<BoxError> = match result {
                Ok(result) => result.err().map(Into::into),
                Err(error) => Some(error.into()),
            };
            if let Some(error) = error {
                tracing::warn!(error = &*error as &dyn std::error::Error, "the catalogue could not be saved");
                moved.mark_changed();
            }
        }
        if stopping {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
