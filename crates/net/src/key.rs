//! The server's secrets, in the mesh and towards users' devices. They stay for the life of the state folder
//! and never leave it.

use std::io;
use std::path::{Path, PathBuf};

use atoll_mesh::{KeyError, PrivateKey};
use atoll_rpc::files::write_durably;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("cannot read the WireGuard key {path}", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the WireGuard key {path}", path = .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} holds no WireGuard key; without it this server is another one to its peers", path = .path.display())]
    Damaged { path: PathBuf, source: KeyError },
}

/// Reads the key, or makes one where there is none yet.
///
/// # Errors
/// If the file cannot be read or written, or holds something else: it is never replaced.
pub fn load_or_create(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let at = || path.to_owned();
    match std::fs::read_to_string(path) {
        Ok(text) => text.parse().map_err(|source| KeyFileError::Damaged { path: at(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = PrivateKey::generate();
            let text = BASE64_STANDARD.encode(key.expose());
            write_durably(path, text.as_bytes(), true).map_err(|source| KeyFileError::Write { path: at(), source })?;
            Ok(key)
        }
        Err(source) => Err(KeyFileError::Read { path: at(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.key");
        let made = load_or_create(&path).unwrap();
        assert!(load_or_create(&path).unwrap() == made);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_is_no_reason_to_become_somebody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.key");
        for text in ["", "AAAA", "not a key"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(load_or_create(&path), Err(KeyFileError::Damaged { .. })), "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
