//! The static programs embedded in this one, put where they can be executed. Each build's programs
//! have names of their own, so that an upgrade never changes a file that a machine runs from.

use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Error, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const SHIM: &[u8] = include_bytes!(env!("ATOLL_SHIM_BIN"));
const GUEST: &[u8] = include_bytes!(env!("ATOLL_GUEST_BIN"));

/// Where the programs lie.
#[derive(Clone, Debug)]
pub struct Programs {
    pub shim: PathBuf,
    pub guest: PathBuf,
}

/// The programs could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the program {path:?}")]
pub struct ProgramError {
    path: PathBuf,
    #[source]
    source: Error,
}

impl Programs {
    /// Writes the programs below `folder`, unless they are there.
    pub fn install(folder: &Path) -> Result<Self, ProgramError> {
        Ok(Self { shim: install(folder, "atoll-shim", SHIM)?, guest: install(folder, "atoll-guest", GUEST)? })
    }
}

fn install(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf, ProgramError> {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    // The name only has to differ between builds; whoever can write here is root already.
    let path = folder.join(format!("{name}-{:016x}", hasher.finish()));
    let complete = fs::metadata(&path).is_ok_and(|found| found.len() == content.len() as u64);
    if !complete {
        write(folder, &path, content).map_err(|source| ProgramError { path: path.clone(), source })?;
    }
    Ok(path)
}

fn write(folder: &Path, path: &Path, content: &[u8]) -> Result<(), Error> {
    fs::create_dir_all(folder)?;
    // Several agents may share a folder and write at once; the name is each one's own.
    let next = path.with_extension(format!("{}.next", std::process::id()));
    let mut file = File::create(&next)?;
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(0o555))?;
    file.sync_all()?;
    drop(file);
    fs::rename(&next, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_written_once_and_repaired_when_cut_short() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::install(folder.path()).unwrap();
        let written = fs::metadata(&programs.shim).unwrap().modified().unwrap();
        assert_eq!(fs::read(&programs.guest).unwrap(), GUEST);
        Programs::install(folder.path()).unwrap();
        assert_eq!(fs::metadata(&programs.shim).unwrap().modified().unwrap(), written);
        fs::remove_file(&programs.guest).unwrap();
        fs::write(&programs.guest, "cut").unwrap();
        Programs::install(folder.path()).unwrap();
        assert_eq!(fs::read(&programs.guest).unwrap(), GUEST);
    }
}
