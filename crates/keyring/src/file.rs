//! Root keys in a file of mode 0600: one key a line in hex, the last line current. The file is
//! replaced as a whole and synced, so that a crash leaves the old keys or the new ones.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::aead;
use crate::source::{KEY_BYTES, KeyError, KeyId, KeySource, SecretKey};

/// A [`KeySource`] over a key file.
pub struct FileKeys {
    path: PathBuf,
    /// Oldest first, never empty. Held for the time of one cryptographic operation.
    keys: RwLock<Vec<RootKey>>,
}

#[derive(Clone)]
struct RootKey {
    id: KeyId,
    key: SecretKey,
}

/// Why a key file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileKeysError {
    #[error("cannot read the key file {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the key file {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("the key file {path} may be read by others (mode {mode:03o}); it must have mode 600")]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("line {line} of the key file {path} is not a key of {} hex digits", KEY_BYTES * 2)]
    Malformed { path: PathBuf, line: usize },
    #[error("the key file {path} holds no key")]
    Empty { path: PathBuf },
    #[error("the system gave no random bytes for a new root key")]
    NoRandomness,
}

impl FileKeys {
    /// Reads the key file, making it with one random key when there is none. Two processes that
    /// start at once agree on the file that was there first.
    pub fn open_or_create(path: &Path) -> Result<Self, FileKeysError> {
        match Self::open(path) {
            Err(FileKeysError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                write_new(path, &[RootKey::random()?])?;
                Self::open(path)
            }
            result => result,
        }
    }

    /// Reads an existing key file.
    pub fn open(path: &Path) -> Result<Self, FileKeysError> {
        let read_failed = |source| FileKeysError::Read { path: path.to_owned(), source };
        let text = Zeroizing::new(fs::read_to_string(path).map_err(read_failed)?);
        let mode = fs::metadata(path).map_err(read_failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FileKeysError::TooOpen { path: path.to_owned(), mode });
        }
        let keys = text
            .lines()
            .enumerate()
            .map(|(index, line)| {
                RootKey::parse(line).ok_or(FileKeysError::Malformed { path: path.to_owned(), line: index + 1 })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(FileKeysError::Empty { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), keys: RwLock::new(keys) })
    }

    /// Adds a new root key and makes it the current one; what older keys sealed stays readable.
    pub fn rotate(&self) -> Result<KeyId, FileKeysError> {
        let mut keys = self.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut next = keys.clone();
        let added = RootKey::random()?;
        let id = added.id;
        next.push(added);
        replace(&self.path, &next)?;
        *keys = next;
        Ok(id)
    }

    fn with_keys<T>(&self, use_keys: impl FnOnce(&[RootKey]) -> T) -> T {
        // A panic elsewhere cannot leave the list half changed: it is swapped whole.
        use_keys(&self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn with_current<T>(&self, use_key: impl FnOnce(&RootKey) -> Result<T, KeyError>) -> Result<T, KeyError> {
        self.with_keys(|keys| keys.last().ok_or(KeyError::Refused).and_then(use_key))
    }
}

impl KeySource for FileKeys {
    fn current(&self) -> KeyId {
        // The list is never empty; the zero id would only make a later unwrap say "unknown key".
        self.with_keys(|keys| keys.last().map_or(KeyId([0; KeyId::BYTES]), |key| key.id))
    }

    fn wrap(&self, context: &[u8], data_key: &SecretKey) -> Result<Vec<u8>, KeyError> {
        self.with_current(|root| aead::encrypt(&root.key, context, data_key.as_slice()).map_err(|_| KeyError::Refused))
    }

    fn unwrap(&self, id: KeyId, context: &[u8], wrapped: &[u8]) -> Result<SecretKey, KeyError> {
        self.with_keys(|keys| {
            let root = keys.iter().find(|key| key.id == id).ok_or(KeyError::Unknown { id })?;
            let plain = aead::decrypt(&root.key, context, wrapped).map_err(|_| KeyError::NotAuthentic { id })?;
            let plain = Zeroizing::new(plain);
            <[u8; KEY_BYTES]>::try_from(plain.as_slice()).map(SecretKey::new).map_err(|_| KeyError::NotAuthentic { id })
        })
    }

    fn mac(&self, message: &[u8]) -> Result<[u8; 32], KeyError> {
        self.with_current(|root| root.mac(message).ok_or(KeyError::Refused))
    }
}

impl RootKey {
    fn random() -> Result<Self, FileKeysError> {
        let key = aead::random_key().map_err(|_| FileKeysError::NoRandomness)?;
        Self::new(key).ok_or(FileKeysError::NoRandomness)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut key = SecretKey::new([0; KEY_BYTES]);
        hex::decode_to_slice(line.trim_end(), key.as_mut_slice()).ok()?;
        Self::new(key)
    }

    /// The id is derived from the key, so that the file cannot pair a key with a wrong name.
    fn new(key: SecretKey) -> Option<Self> {
        let mut root = Self { id: KeyId([0; KeyId::BYTES]), key };
        let digest = root.mac(b"atoll root key id")?;
        root.id.0.copy_from_slice(digest.get(..KeyId::BYTES)?);
        Some(root)
    }

    fn mac(&self, message: &[u8]) -> Option<[u8; 32]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.as_slice());
        hmac::sign(&key, message).as_ref().try_into().ok()
    }
}

/// Writes the keys to a temporary file beside `path`, synced.
fn write_beside(path: &Path, keys: &[RootKey]) -> Result<PathBuf, io::Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    for root in keys {
        let line = Zeroizing::new(hex::encode(root.key.as_slice()) + "\n");
        file.write_all(line.as_bytes())?;
    }
    file.sync_all()?;
    Ok(beside)
}

/// Makes the file unless someone else already did.
fn write_new(path: &Path, keys: &[RootKey]) -> Result<(), FileKeysError> {
    let write_failed = |source| FileKeysError::Write { path: path.to_owned(), source };
    let beside = write_beside(path, keys).map_err(write_failed)?;
    // A hard link, unlike a rename, never replaces a file that appeared in the meantime.
    let linked = match fs::hard_link(&beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    };
    fs::remove_file(&beside).map_err(write_failed)?;
    linked.and_then(|()| sync_folder(path)).map_err(write_failed)
}

fn replace(path: &Path, keys: &[RootKey]) -> Result<(), FileKeysError> {
    write_beside(path, keys)
        .and_then(|beside| fs::rename(beside, path))
        .and_then(|()| sync_folder(path))
        .map_err(|source| FileKeysError::Write { path: path.to_owned(), source })
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Keyring;

    #[test]
    fn the_file_is_made_once_and_read_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let first = FileKeys::open_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(FileKeys::open_or_create(&path).unwrap().current(), first.current());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_key_that_appeared_first_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let first = FileKeys::open_or_create(&path).unwrap();
        write_new(&path, &[RootKey::random().unwrap()]).unwrap();
        assert_eq!(FileKeys::open(&path).unwrap().current(), first.current());
    }

    #[test]
    fn what_an_older_key_sealed_opens_after_rotation_and_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let keys = Arc::new(FileKeys::open_or_create(&path).unwrap());
        let keyring = Keyring::new(keys.clone());
        let before = keyring.seal("c", b"before").unwrap();
        let rotated = keys.rotate().unwrap();
        let after = keyring.seal("c", b"after").unwrap();
        assert!(!keyring.is_current(&before) && keyring.is_current(&after));

        let reopened = FileKeys::open(&path).unwrap();
        assert_eq!(reopened.current(), rotated);
        let keyring = Keyring::new(Arc::new(reopened));
        assert_eq!(keyring.open("c", &before).unwrap().as_slice(), b"before");
        assert_eq!(keyring.open("c", &after).unwrap().as_slice(), b"after");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn bad_files_are_refused_by_name_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let write = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            FileKeys::open_or_create(&path).err().unwrap()
        };
        let good = "ab".repeat(KEY_BYTES);
        assert!(matches!(write("", 0o600), FileKeysError::Empty { .. }));
        assert!(matches!(write(&good, 0o640), FileKeysError::TooOpen { mode: 0o640, .. }));
        assert!(matches!(write(&format!("{good}\nabcd\n"), 0o600), FileKeysError::Malformed { line: 2, .. }));
        assert!(matches!(write(&"zz".repeat(KEY_BYTES), 0o600), FileKeysError::Malformed { line: 1, .. }));
    }
}
