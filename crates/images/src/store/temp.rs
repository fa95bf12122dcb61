//! Unfinished things: removed unless they were finished.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::StoreError;

/// A file or folder under `tmp/` that goes with its guard. Renaming it away disarms the guard.
#[derive(Debug)]
pub(crate) struct Temp {
    path: PathBuf,
}

impl Temp {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished image part; the next start will");
        }
    }
}

/// Removes a file or a whole folder, never through a symbolic link. Nothing there is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Removes everything in `folder`.
pub(super) fn sweep(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let path = entry.map_err(StoreError::io("list", folder))?.path();
        remove(&path).map_err(StoreError::io("remove the leftover", &path))?;
    }
    Ok(())
}
