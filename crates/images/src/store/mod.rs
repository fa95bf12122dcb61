//! The image store: blobs by digest, names, unpacked layers, below one folder.
//!
//! | below the root | what |
//! | --- | --- |
//! | `blobs/sha256/<hex>` | verified blobs; a name that exists is whole |
//! | `layers/<diff_id hex>` | unpacked layers, `<hex>.json` beside each says what it cost |
//! | `repositories/<name>.json` | tags and manifests of one repository |
//! | `tmp/` | everything unfinished; swept when the store opens |
//! | `lock` | held by the one process that owns the store |
//!
//! Everything is made under `tmp/`, made durable and renamed, so a crash at any instant leaves
//! either nothing or the whole. Methods here block on the disk; asynchronous callers use
//! [`crate::task::blocking`].

pub(crate) mod collect;
pub(crate) mod names;
pub(crate) mod temp;
pub(crate) mod writer;

use std::{
    fs::{self, File, Permissions},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use thiserror::Error;

pub use self::{
    collect::Collected,
    names::NamedImage,
    writer::{BlobWriter, StagedBlob},
};
use self::{names::Names, temp::Temp};
use crate::{Digest, task::SingleFlight};

/// The largest manifest or index, in bytes: what registries agree to carry.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// The largest image configuration that is read, in bytes.
pub const MAX_CONFIG: u64 = 8 << 20;

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    temps: AtomicU64,
    names: Names,
    /// Makes "still there, and now young" one step against collection.
    touching: Mutex<()>,
    fetching: SingleFlight<Digest>,
    unpacking: SingleFlight<Digest>,
    /// The operating system drops the lock with the descriptor, also when we are killed.
    _lock: File,
}

/// Why the store could not do something.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("another process uses the image store {}: give each its own folder", path.display())]
    InUse { path: PathBuf },
    #[error("no space left for images at {}: free some, or collect images", path.display())]
    Full { path: PathBuf, source: io::Error },
    #[error("cannot {operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the image store has no blob {digest}")]
    Missing { digest: Digest },
    #[error("the content's digest is {found}, expected {expected}")]
    WrongDigest { expected: Digest, found: Digest },
    #[error("the content has {found} bytes, expected {expected}")]
    WrongSize { expected: u64, found: u64 },
    #[error("the content is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the file {} is damaged; repair it, or remove it and push its images again", path.display())]
    Index { path: PathBuf, source: serde_json::Error },
    #[error("an image operation was cut off: the process is stopping")]
    Stopping,
}

impl StoreError {
    /// Dresses an I/O error; a full disk is told apart because its owner can do something about it.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, source },
            _ => Self::Io { operation, path, source },
        }
    }
}

impl ImageStore {
    /// Opens the store at `root`, making it if need be, and sweeps what a killed process left.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        for folder in ["", "blobs/sha256", "layers", "repositories", "tmp"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(StoreError::io("create the folder", &folder))?;
        }
        // Layers hold set-id programs of strangers: no user of the host may reach them.
        fs::set_permissions(&root, Permissions::from_mode(0o700)).map_err(StoreError::io("protect", &root))?;

        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).map_err(StoreError::io("create", &lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => StoreError::InUse { path: root.clone() },
            other => StoreError::io("lock", &lock_path)(other.into()),
        })?;

        temp::sweep(&root.join("tmp"))?;
        let names = Names::load(root.join("repositories"))?;
        Ok(Self {
            inner: Arc::new(Inner {
                root,
                temps: AtomicU64::new(0),
                names,
                touching: Mutex::new(()),
                fetching: SingleFlight::default(),
                unpacking: SingleFlight::default(),
                _lock: lock,
            }),
        })
    }

    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The size of a blob that is here.
    pub fn size_of(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look up", path)(error)),
        }
    }

    /// Like [`Self::size_of`], and makes the blob young again: whoever was told that it is here may
    /// name it in a manifest before collection comes.
    pub fn confirm(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let _step = self.inner.touching.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => {
                file.set_modified(SystemTime::now()).map_err(StoreError::io("touch", &path))?;
                Ok(Some(file.metadata().map_err(StoreError::io("look up", &path))?.len()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look up", path)(error)),
        }
    }

    /// Opens a blob for reading, and its size. Collection does not cut off who already reads.
    pub fn open_blob(&self, digest: &Digest) -> Result<(File, u64), StoreError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => {
                let size = file.metadata().map_err(StoreError::io("look up", path))?.len();
                Ok((file, size))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Missing { digest: *digest }),
            Err(error) => Err(StoreError::io("open", path)(error)),
        }
    }

    /// A whole blob of at most `limit` bytes, verified once more.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, StoreError> {
        let (file, size) = self.open_blob(digest)?;
        if size > limit {
            return Err(StoreError::TooLarge { limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        file.take(limit).read_to_end(&mut bytes).map_err(StoreError::io("read", self.blob_path(digest)))?;
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes.into()),
            found => Err(StoreError::WrongDigest { expected: *digest, found }),
        }
    }

    /// Begins a new blob of at most `limit` bytes.
    pub fn writer(&self, limit: u64) -> Result<BlobWriter, StoreError> {
        BlobWriter::new(self.clone(), limit)
    }

    /// Stores `bytes`.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let mut writer = self.writer(bytes.len() as u64)?;
        writer.write(bytes)?;
        writer.stage(None)?.commit()
    }

    pub(crate) fn names(&self) -> &Names {
        &self.inner.names
    }

    pub(crate) fn fetching(&self) -> &SingleFlight<Digest> {
        &self.inner.fetching
    }

    pub(crate) fn unpacking(&self) -> &SingleFlight<Digest> {
        &self.inner.unpacking
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layers_path(&self) -> PathBuf {
        self.inner.root.join("layers")
    }

    /// A name under `tmp/` that nothing has yet; what is made there goes when the guard goes.
    pub(crate) fn temp(&self, purpose: &str) -> Temp {
        let number = self.inner.temps.fetch_add(1, Ordering::Relaxed);
        Temp::new(self.inner.root.join("tmp").join(format!("{purpose}-{number}")))
    }
}

/// Makes a rename or removal inside `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(StoreError::io("make durable", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_there_whole_and_under_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let digest = store.put(b"content").unwrap();
        assert_eq!(store.size_of(&digest).unwrap(), Some(7));
        assert_eq!(&store.read_blob(&digest, 100).unwrap()[..], b"content");
        assert!(matches!(store.read_blob(&digest, 3), Err(StoreError::TooLarge { limit: 3 })));
        let absent = Digest::of(b"absent");
        assert_eq!(store.size_of(&absent).unwrap(), None);
        assert!(matches!(store.open_blob(&absent), Err(StoreError::Missing { .. })));
    }

    #[test]
    fn a_refused_blob_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let mut writer = store.writer(5).unwrap();
        writer.write(b"abc").unwrap();
        assert!(matches!(writer.write(b"def"), Err(StoreError::TooLarge { limit: 5 })));
        drop(writer);
        let mut writer = store.writer(5).unwrap();
        writer.write(b"abc").unwrap();
        let error = writer.stage(Some((&Digest::of(b"xyz"), None))).err().unwrap();
        assert!(matches!(error, StoreError::WrongDigest { .. }));
        let mut writer = store.writer(5).unwrap();
        writer.write(b"abc").unwrap();
        let error = writer.stage(Some((&Digest::of(b"abc"), Some(4)))).err().unwrap();
        assert!(matches!(error, StoreError::WrongSize { expected: 4, found: 3 }));
        assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_of_a_killed_process_are_swept_and_a_second_owner_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("tmp/layer-1/deep")).unwrap();
        fs::write(folder.path().join("tmp/blob-7"), b"half").unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
        assert!(matches!(ImageStore::open(folder.path()), Err(StoreError::InUse { .. })));
        drop(store);
        assert!(ImageStore::open(folder.path()).is_ok());
    }

    #[test]
    fn a_blob_damaged_on_disk_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let digest = store.put(b"content").unwrap();
        fs::write(store.blob_path(&digest), b"rotten!").unwrap();
        assert!(matches!(store.read_blob(&digest, 100), Err(StoreError::WrongDigest { .. })));
    }
}
