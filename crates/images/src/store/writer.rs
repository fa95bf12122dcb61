//! Writing a blob: hashed on the way, verified, durable, then renamed to its digest.

use std::{
    fs::{self, File},
    io::Write,
};

use super::{ImageStore, StoreError, sync_folder, temp::Temp};
use crate::{Digest, digest::Hasher};

/// A blob being written. Dropped without being staged and committed, it leaves nothing.
pub struct BlobWriter {
    store: ImageStore,
    file: File,
    temp: Temp,
    hasher: Hasher,
    limit: u64,
}

impl BlobWriter {
    pub(super) fn new(store: ImageStore, limit: u64) -> Result<Self, StoreError> {
        let temp = store.temp("blob");
        let file = File::create_new(temp.path()).map_err(StoreError::io("create", temp.path()))?;
        Ok(Self { store, file, temp, hasher: Hasher::default(), limit })
    }

    /// Appends `bytes`. After an error the writer is only good for being dropped.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.hasher.size() + bytes.len() as u64 > self.limit {
            return Err(StoreError::TooLarge { limit: self.limit });
        }
        self.file.write_all(bytes).map_err(StoreError::io("write", self.temp.path()))?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.hasher.size()
    }

    /// Verifies what was written against a digest and, if known, a size, and makes it durable.
    pub fn stage(self, expected: Option<(&Digest, Option<u64>)>) -> Result<StagedBlob, StoreError> {
        let (digest, size) = (self.hasher.digest(), self.hasher.size());
        if let Some((expected_digest, expected_size)) = expected {
            if let Some(expected) = expected_size.filter(|expected| *expected != size) {
                return Err(StoreError::WrongSize { expected, found: size });
            }
            if *expected_digest != digest {
                return Err(StoreError::WrongDigest { expected: *expected_digest, found: digest });
            }
        }
        self.file.sync_all().map_err(StoreError::io("make durable", self.temp.path()))?;
        Ok(StagedBlob { store: self.store, temp: self.temp, digest, size })
    }
}

/// A whole and durable blob that has no name yet. Dropped, it leaves nothing.
pub struct StagedBlob {
    store: ImageStore,
    temp: Temp,
    digest: Digest,
    size: u64,
}

impl StagedBlob {
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens the content for reading before it has a name.
    pub(crate) fn open(&self) -> Result<File, StoreError> {
        File::open(self.temp.path()).map_err(StoreError::io("open", self.temp.path()))
    }

    /// Gives the blob its name in the store. If it was there already, it is as good as new.
    pub fn commit(self) -> Result<Digest, StoreError> {
        let path = self.store.blob_path(&self.digest);
        fs::rename(self.temp.path(), &path).map_err(StoreError::io("rename to", &path))?;
        sync_folder(path.parent().unwrap_or(self.store.root()))?;
        Ok(self.digest)
    }
}
