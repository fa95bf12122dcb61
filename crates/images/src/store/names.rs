//! Names: which tags and manifests each repository has.
//!
//! One small file a repository, replaced by rename; everything is also in memory, because it is read
//! on every request of the registry. A damaged file is refused when the store opens: guessing that a
//! repository is empty would let collection remove its images.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{ImageStore, MAX_MANIFEST, StoreError, sync_folder, temp};
use crate::{Digest, Repository, Tag, manifest::Document};

/// A tag and what it points at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedImage {
    pub repository: Repository,
    pub tag: Tag,
    pub manifest: Digest,
}

#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub tags: BTreeMap<Tag, Digest>,
    /// Every manifest pushed here, tagged or not.
    pub manifests: BTreeSet<Digest>,
}

pub(crate) struct Names {
    folder: PathBuf,
    records: Mutex<BTreeMap<Repository, Arc<Record>>>,
    /// Held over a whole change, file and memory. Readers do not wait for the disk.
    changing: Mutex<()>,
}

impl Names {
    pub(super) fn load(folder: PathBuf) -> Result<Self, StoreError> {
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
            let path = entry.map_err(StoreError::io("list", &folder))?.path();
            let Some(repository) = repository_of(&path) else {
                tracing::warn!(path = %path.display(), "a file among the repositories is none; it is left alone");
                continue;
            };
            let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
            let record: Record = serde_json::from_slice(&bytes).map_err(|source| StoreError::Index { path, source })?;
            records.insert(repository, Arc::new(record));
        }
        Ok(Self { folder, records: Mutex::new(records), changing: Mutex::new(()) })
    }

    pub(crate) fn get(&self, repository: &Repository) -> Option<Arc<Record>> {
        self.records().get(repository).cloned()
    }

    pub(crate) fn all(&self) -> Vec<(Repository, Arc<Record>)> {
        self.records().iter().map(|(name, record)| (name.clone(), Arc::clone(record))).collect()
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<Repository, Arc<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one record, on disk first. `change` says what it answers and edits in place.
    fn change<T>(
        &self,
        store: &ImageStore,
        repository: &Repository,
        change: impl FnOnce(&mut Record) -> T,
    ) -> Result<T, StoreError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.get(repository).unwrap_or_default();
        let mut record = Record::clone(&before);
        let answer = change(&mut record);
        if record == *before {
            return Ok(answer);
        }
        let path = self.folder.join(file_name(repository));
        if record == Record::default() {
            temp::remove(&path).map_err(StoreError::io("remove", &path))?;
            sync_folder(&self.folder)?;
            self.records().remove(repository);
        } else {
            let bytes =
                serde_json::to_vec(&record).map_err(|source| StoreError::Index { path: path.clone(), source })?;
            let temp = store.temp("names");
            write_durably(temp.path(), &bytes).map_err(StoreError::io("write", temp.path()))?;
            fs::rename(temp.path(), &path).map_err(StoreError::io("rename to", &path))?;
            sync_folder(&self.folder)?;
            self.records().insert(repository.clone(), Arc::new(record));
        }
        Ok(answer)
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A comma stands for the slash: no repository holds one.
fn file_name(repository: &Repository) -> String {
    format!("{}.json", repository.as_str().replace('/', ","))
}

fn repository_of(path: &Path) -> Option<Repository> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.replace(',', "/").parse().ok()
}

impl ImageStore {
    /// Points `repository:tag` at a manifest that is here.
    pub fn set_tag(&self, repository: &Repository, tag: &Tag, manifest: Digest) -> Result<(), StoreError> {
        self.confirm_document(manifest)?;
        self.names().change(self, repository, |record| {
            record.manifests.insert(manifest);
            record.tags.insert(tag.clone(), manifest);
        })
    }

    /// Makes a manifest that is here young, with all it refers to: a collection under way has not
    /// seen the name that it is about to get.
    fn confirm_document(&self, root: Digest) -> Result<(), StoreError> {
        self.confirm(&root)?.ok_or(StoreError::Missing { digest: root })?;
        let mut seen = BTreeSet::new();
        let mut open = vec![root];
        while let Some(digest) = open.pop() {
            if self.confirm(&digest)?.is_none() || !seen.insert(digest) {
                continue;
            }
            if let Ok(document) = Document::parse(&self.read_blob(&digest, MAX_MANIFEST)?) {
                match &document {
                    Document::Index(index) => open.extend(index.manifests.iter().map(|entry| entry.digest)),
                    Document::Manifest(_) => {
                        for reference in document.references() {
                            self.confirm(&reference.digest)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes a tag; the image stays until it is collected. Says whether there was one.
    pub fn remove_tag(&self, repository: &Repository, tag: &Tag) -> Result<bool, StoreError> {
        self.names().change(self, repository, |record| record.tags.remove(tag).is_some())
    }

    /// Makes a manifest that is here part of `repository`, without a tag.
    pub fn add_manifest(&self, repository: &Repository, manifest: Digest) -> Result<(), StoreError> {
        self.confirm_document(manifest)?;
        self.names().change(self, repository, |record| {
            record.manifests.insert(manifest);
        })
    }

    /// Takes manifests and their tags out of `repository`. Says how many there were.
    pub fn remove_manifests(&self, repository: &Repository, manifests: &BTreeSet<Digest>) -> Result<usize, StoreError> {
        self.names().change(self, repository, |record| {
            let before = record.manifests.len();
            record.manifests.retain(|manifest| !manifests.contains(manifest));
            record.tags.retain(|_, manifest| !manifests.contains(manifest));
            before - record.manifests.len()
        })
    }

    /// Forgets a repository with all its tags, as when its app is destroyed.
    pub fn remove_repository(&self, repository: &Repository) -> Result<bool, StoreError> {
        self.names().change(self, repository, |record| std::mem::take(record) != Record::default())
    }

    /// What `repository:tag` points at.
    pub fn resolve_tag(&self, repository: &Repository, tag: &Tag) -> Option<Digest> {
        self.names().get(repository)?.tags.get(tag).copied()
    }

    /// Whether `manifest` was pushed to `repository` or imported there.
    pub fn has_manifest(&self, repository: &Repository, manifest: &Digest) -> bool {
        self.names().get(repository).is_some_and(|record| record.manifests.contains(manifest))
    }

    /// The tags of a repository, in order; `None` if there is no such repository.
    pub fn tags(&self, repository: &Repository) -> Option<Vec<Tag>> {
        Some(self.names().get(repository)?.tags.keys().cloned().collect())
    }

    /// Every repository, in order.
    pub fn repositories(&self) -> Vec<Repository> {
        self.names().all().into_iter().map(|(name, _)| name).collect()
    }

    /// Every tag of every repository, in order.
    pub fn images(&self) -> Vec<NamedImage> {
        let named = |(repository, record): (Repository, Arc<Record>)| {
            let tags: Vec<_> = record.tags.iter().map(|(tag, manifest)| (tag.clone(), *manifest)).collect();
            tags.into_iter().map(move |(tag, manifest)| NamedImage { repository: repository.clone(), tag, manifest })
        };
        self.names().all().into_iter().flat_map(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(repository: &str, tag: &str) -> (Repository, Tag) {
        (repository.parse().unwrap(), tag.parse().unwrap())
    }

    #[test]
    fn tags_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let manifest = store.put(b"{}").unwrap();
        let (repository, tag) = names("my-app/web", "v1");
        store.set_tag(&repository, &tag, manifest).unwrap();
        drop(store);
        let store = ImageStore::open(folder.path()).unwrap();
        assert_eq!(store.resolve_tag(&repository, &tag), Some(manifest));
        assert_eq!(store.images(), [NamedImage { repository: repository.clone(), tag: tag.clone(), manifest }]);
        assert!(store.remove_tag(&repository, &tag).unwrap());
        assert!(!store.remove_tag(&repository, &tag).unwrap());
        assert!(store.has_manifest(&repository, &manifest));
        assert!(store.remove_repository(&repository).unwrap());
        assert_eq!(fs::read_dir(folder.path().join("repositories")).unwrap().count(), 0);
    }

    #[test]
    fn a_tag_needs_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let (repository, tag) = names("a", "b");
        assert!(matches!(store.set_tag(&repository, &tag, Digest::of(b"x")), Err(StoreError::Missing { .. })));
        assert_eq!(store.tags(&repository), None);
    }

    #[test]
    fn removing_a_manifest_takes_its_tags_along() {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        let (old, new) = (store.put(b"old").unwrap(), store.put(b"new").unwrap());
        let (repository, tag) = names("a/b", "v1");
        store.set_tag(&repository, &tag, old).unwrap();
        store.set_tag(&repository, &"v2".parse().unwrap(), new).unwrap();
        assert_eq!(store.remove_manifests(&repository, &BTreeSet::from([old])).unwrap(), 1);
        assert_eq!(store.tags(&repository).unwrap(), ["v2".parse().unwrap()]);
    }

    #[test]
    fn a_damaged_record_is_named_instead_of_being_taken_for_empty() {
        let folder = tempfile::tempdir().unwrap();
        drop(ImageStore::open(folder.path()).unwrap());
        fs::write(folder.path().join("repositories/a,b.json"), b"{\"tags\":").unwrap();
        let error = ImageStore::open(folder.path()).err().unwrap();
        assert!(error.to_string().contains("a,b.json"), "{error}");
    }
}
