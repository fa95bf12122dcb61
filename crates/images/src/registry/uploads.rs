//! Uploads under way, and blobs that wait for their manifest. In memory only: after a restart a
//! client begins again, and the swept `tmp/` holds nothing of it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::error::ApiError;
use crate::{Digest, Repository, store::BlobWriter};

/// Finished blobs that are remembered for their repository; beyond, the oldest wait is cut short.
const MAX_RECENT: usize = 100_000;

pub(super) struct Uploads {
    limit: usize,
    expiry: Duration,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    uploads: HashMap<String, Upload>,
    recent: HashMap<(Repository, Digest), Instant>,
}

struct Upload {
    repository: Repository,
    touched: Instant,
    /// `None` while a request writes.
    writer: Option<BlobWriter>,
}

impl Uploads {
    pub(super) fn new(limit: usize, expiry: Duration) -> Self {
        Self { limit, expiry, table: Mutex::default() }
    }

    /// The table without what has expired.
    fn table(&self) -> MutexGuard<'_, Table> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_alive = |touched: &Instant| now.duration_since(*touched) < self.expiry;
        table.uploads.retain(|_, upload| is_alive(&upload.touched));
        table.recent.retain(|_, touched| is_alive(touched));
        table
    }

    pub(super) fn begin(&self, repository: Repository, writer: BlobWriter) -> Result<String, ApiError> {
        let mut table = self.table();
        if table.uploads.len() >= self.limit {
            return Err(ApiError::too_many_uploads());
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let upload = Upload { repository, touched: Instant::now(), writer: Some(writer) };
        table.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    /// Takes the writer out, so that nobody else writes until it is put back.
    pub(super) fn take(&self, repository: &Repository, id: &str) -> Result<BlobWriter, ApiError> {
        let mut table = self.table();
        let upload = find(&mut table, repository, id)?;
        upload.touched = Instant::now();
        upload.writer.take().ok_or_else(ApiError::upload_busy)
    }

    /// Gives the writer back. An upload that expired or was cancelled meanwhile is dropped.
    pub(super) fn put_back(&self, id: &str, writer: BlobWriter) {
        if let Some(upload) = self.table().uploads.get_mut(id) {
            upload.touched = Instant::now();
            upload.writer = Some(writer);
        }
    }

    /// Bytes that came so far.
    pub(super) fn size(&self, repository: &Repository, id: &str) -> Result<u64, ApiError> {
        let mut table = self.table();
        find(&mut table, repository, id)?.writer.as_ref().map(BlobWriter::size).ok_or_else(ApiError::upload_busy)
    }

    pub(super) fn remove(&self, repository: &Repository, id: &str) -> Result<(), ApiError> {
        let mut table = self.table();
        find(&mut table, repository, id)?;
        table.uploads.remove(id);
        Ok(())
    }

    /// Remembers that `digest` was just uploaded or mounted to `repository`.
    pub(super) fn finished(&self, repository: &Repository, digest: Digest) {
        let mut table = self.table();
        if table.recent.len() >= MAX_RECENT {
            let oldest = table.recent.iter().min_by_key(|(_, touched)| **touched).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                table.recent.remove(&oldest);
            }
        }
        table.recent.insert((repository.clone(), digest), Instant::now());
    }

    pub(super) fn was_recent(&self, repository: &Repository, digest: &Digest) -> bool {
        self.table().recent.contains_key(&(repository.clone(), *digest))
    }
}

/// An upload is known under its own repository only.
fn find<'a>(table: &'a mut Table, repository: &Repository, id: &str) -> Result<&'a mut Upload, ApiError> {
    table.uploads.get_mut(id).filter(|upload| upload.repository == *repository).ok_or_else(ApiError::upload_unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageStore;

    #[test]
    fn an_untouched_upload_expires_and_its_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let repository: Repository = "a/b".parse().unwrap();
        let uploads = Uploads::new(2, Duration::ZERO);
        let id = uploads.begin(repository.clone(), store.writer(10).unwrap()).unwrap();
        assert!(uploads.size(&repository, &id).is_err());
        assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn one_request_at_a_time_writes_and_only_in_its_repository() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let (repository, other): (Repository, Repository) = ("a/b".parse().unwrap(), "c/d".parse().unwrap());
        let uploads = Uploads::new(1, Duration::from_secs(60));
        let id = uploads.begin(repository.clone(), store.writer(10).unwrap()).unwrap();
        assert!(uploads.begin(repository.clone(), store.writer(10).unwrap()).is_err());
        assert!(uploads.take(&other, &id).is_err());
        let writer = uploads.take(&repository, &id).unwrap();
        assert!(uploads.take(&repository, &id).is_err());
        uploads.put_back(&id, writer);
        assert!(uploads.take(&repository, &id).is_ok());
    }
}
