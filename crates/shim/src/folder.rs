//! The machine's folder: its lock, its socket and its records.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_guest_protocol::shim::layout;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::wait;

/// What could not be done in the machine's folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot {action} {path:?}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Error,
    },
    #[error("another shim runs the machine in {path:?}")]
    Busy { path: PathBuf },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io { action, path, source }
}

/// Held by the one process that acts on the machine.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the folder's lock, waiting up to `limit` for another to let go of it.
pub fn lock(folder: &Path, limit: Duration) -> Result<Lock, FolderError> {
    let path = folder.join(layout::LOCK);
    let file = File::create(&path).map_err(failed("open", &path))?;
    if wait::until(limit, || flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()) {
        Ok(Lock { _file: file })
    } else {
        Err(FolderError::Busy { path: folder.to_owned() })
    }
}

/// Listens in the current folder: a relative name is never too long for a socket's address.
pub fn listen() -> Result<UnixListener, FolderError> {
    let path = Path::new(layout::SOCKET);
    remove_file(path)?;
    let listener = UnixListener::bind(path).map_err(failed("listen on", path))?;
    listener.set_nonblocking(true).map_err(failed("listen on", path))?;
    Ok(listener)
}

/// Removes a file; one that is not there is removed.
pub fn remove_file(path: &Path) -> Result<(), FolderError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a folder with all in it; one that is not there is removed.
pub fn remove_folder(path: &Path) -> Result<(), FolderError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes a record so that it is whole or absent. `durable`: also after a power cut.
pub fn write_record(folder: &Path, name: &str, record: &impl Serialize, durable: bool) -> Result<(), FolderError> {
    let path = folder.join(name);
    let text = serde_json::to_vec(record).map_err(|error| failed("encode", &path)(error.into()))?;
    let next = folder.join(format!("{name}.next"));
    let mut file = File::create(&next).map_err(failed("make", &next))?;
    file.write_all(&text).map_err(failed("write", &next))?;
    if durable {
        file.sync_all().map_err(failed("flush", &next))?;
    }
    fs::rename(&next, &path).map_err(failed("name", &path))?;
    if durable {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("flush", folder))?;
    }
    Ok(())
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
