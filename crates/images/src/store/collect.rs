//! Collection: removes what no tag, no pin and no recent upload needs.
//!
//! Safe to repeat and to cut off anywhere. When it cannot tell what a named image needs, it removes
//! nothing and says so.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use super::{ImageStore, MAX_CONFIG, MAX_MANIFEST, StoreError, sync_folder};
use crate::{Digest, image, image::ImageError, manifest::Document};

/// What a collection removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    pub blobs: u64,
    /// Bytes of those blobs.
    pub blob_bytes: u64,
    pub layers: u64,
    /// Bytes of the files in those layers.
    pub layer_bytes: u64,
    /// Untagged manifests that repositories listed.
    pub manifests: u64,
}

/// What must stay.
#[derive(Default)]
struct Needed {
    /// Manifests and indexes whose references are marked. Apart from `blobs`: a hostile manifest may
    /// call another one its layer.
    documents: HashSet<Digest>,
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

impl ImageStore {
    /// Removes every blob and unpacked layer that is reachable from no manifest in `pinned` and from
    /// no tag, and is older than `grace` at `now`: younger ones may belong to an upload under way.
    pub fn collect(&self, pinned: &HashSet<Digest>, grace: Duration, now: SystemTime) -> Result<Collected, ImageError> {
        let is_young = |time: SystemTime| now.duration_since(time).unwrap_or_default() < grace;
        let mut needed = Needed::default();
        for digest in pinned {
            self.mark(*digest, &mut needed)?;
        }
        for (_, record) in self.names().all() {
            for digest in record.tags.values() {
                self.mark(*digest, &mut needed)?;
            }
            for digest in &record.manifests {
                if self.modified(digest)?.is_some_and(is_young) {
                    self.mark(*digest, &mut needed)?;
                }
            }
        }
        let mut collected = Collected::default();
        self.remove_blobs(&needed, is_young, &mut collected)?;
        self.remove_layers(&needed, is_young, &mut collected)?;
        self.forget_manifests(&mut collected)?;
        Ok(collected)
    }

    /// Marks all that a manifest or index needs. What is not here needs nothing.
    fn mark(&self, root: Digest, needed: &mut Needed) -> Result<(), ImageError> {
        let mut open = vec![root];
        while let Some(digest) = open.pop() {
            if !needed.documents.insert(digest) {
                continue;
            }
            needed.blobs.insert(digest);
            let bytes = match self.read_blob(&digest, MAX_MANIFEST) {
                Ok(bytes) => bytes,
                Err(StoreError::Missing { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let document = Document::parse(&bytes).map_err(|source| ImageError::Manifest { digest, source })?;
            match &document {
                Document::Index(index) => open.extend(index.manifests.iter().map(|entry| entry.digest)),
                Document::Manifest(manifest) => {
                    needed.blobs.extend(document.references().iter().map(|reference| reference.digest));
                    self.mark_layers(&manifest.config.digest, needed)?;
                }
            }
        }
        Ok(())
    }

    fn mark_layers(&self, config: &Digest, needed: &mut Needed) -> Result<(), ImageError> {
        match self.read_blob(config, MAX_CONFIG) {
            Ok(bytes) => {
                // Registries also hold artifacts and images for other platforms; nothing of those is
                // ever unpacked here.
                if let Ok((_, diff_ids)) = image::parse_config(*config, &bytes) {
                    needed.layers.extend(diff_ids);
                }
                Ok(())
            }
            Err(StoreError::Missing { .. } | StoreError::TooLarge { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn modified(&self, digest: &Digest) -> Result<Option<SystemTime>, StoreError> {
        let path = self.blob_path(digest);
        match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(time) => Ok(Some(time)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look up", path)(error)),
        }
    }

    fn remove_blobs(
        &self,
        needed: &Needed,
        is_young: impl Fn(SystemTime) -> bool,
        collected: &mut Collected,
    ) -> Result<(), StoreError> {
        let folder = self.inner.root.join("blobs/sha256");
        for digest in digests_in(&folder)? {
            if needed.blobs.contains(&digest) {
                continue;
            }
            // Whoever confirms the blob comes before, and finds it young, or after, and finds it gone.
            let _step = self.inner.touching.lock().unwrap_or_else(PoisonError::into_inner);
            if self.modified(&digest)?.is_none_or(&is_young) {
                continue;
            }
            let path = self.blob_path(&digest);
            let size = self.size_of(&digest)?.unwrap_or_default();
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            collected.blobs += 1;
            collected.blob_bytes += size;
        }
        sync_folder(&folder)
    }

    fn remove_layers(
        &self,
        needed: &Needed,
        is_young: impl Fn(SystemTime) -> bool,
        collected: &mut Collected,
    ) -> Result<(), StoreError> {
        for diff_id in digests_in(&self.layers_path())? {
            if needed.layers.contains(&diff_id) {
                continue;
            }
            let path = self.layers_path().join(diff_id.hex());
            // The time of the rename; a layer's own modification time is the image's.
            let born = match fs::symlink_metadata(&path) {
                Ok(metadata) => SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.ctime().try_into().unwrap_or(0)),
                // Only its summary is left of a removal that was cut off.
                Err(error) if error.kind() == io::ErrorKind::NotFound => SystemTime::UNIX_EPOCH,
                Err(error) => return Err(StoreError::io("look up", path)(error)),
            };
            if !is_young(born) {
                // A layer whose summary is gone or damaged goes all the same.
                let summary = self.unpacked_layer(&diff_id).ok().flatten();
                self.remove_layer(&diff_id)?;
                collected.layers += 1;
                collected.layer_bytes += summary.map_or(0, |(_, summary)| summary.bytes);
            }
        }
        Ok(())
    }

    fn forget_manifests(&self, collected: &mut Collected) -> Result<(), StoreError> {
        for (repository, record) in self.names().all() {
            let mut gone = BTreeSet::new();
            for digest in &record.manifests {
                if self.size_of(digest)?.is_none() {
                    gone.insert(*digest);
                }
            }
            if !gone.is_empty() {
                collected.manifests += self.remove_manifests(&repository, &gone)? as u64;
            }
        }
        Ok(())
    }
}

/// The digests that name the files and folders of `folder`.
fn digests_in(folder: &Path) -> Result<BTreeSet<Digest>, StoreError> {
    let mut digests = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let name = entry.map_err(StoreError::io("list", folder))?.file_name();
        let hex = name.to_str().unwrap_or_default().trim_end_matches(".json");
        if let Ok(digest) = format!("sha256:{hex}").parse() {
            digests.insert(digest);
        }
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_images::{self, Small};

    const HOUR: Duration = Duration::from_secs(3600);

    fn later() -> SystemTime {
        SystemTime::now() + 2 * HOUR
    }

    fn store() -> (tempfile::TempDir, ImageStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        (folder, store)
    }

    #[test]
    fn what_a_tag_or_a_pin_needs_stays_and_the_rest_goes() {
        let (_folder, store) = store();
        let tagged = test_images::put(&store, &Small::new("tagged"));
        let pinned = test_images::put(&store, &Small::new("pinned"));
        let unused = test_images::put(&store, &Small::new("unused"));
        store.set_tag(&"a/b".parse().unwrap(), &"v1".parse().unwrap(), tagged.manifest).unwrap();
        let pins = HashSet::from([pinned.manifest]);

        let collected = store.collect(&pins, HOUR, later()).unwrap();
        assert_eq!(collected.blobs, 3);
        for kept in tagged.all().iter().chain(&pinned.all()) {
            assert!(store.size_of(kept).unwrap().is_some());
        }
        for gone in unused.all() {
            assert_eq!(store.size_of(&gone).unwrap(), None);
        }
        assert_eq!(store.collect(&pins, HOUR, later()).unwrap(), Collected::default());
    }

    #[test]
    fn an_index_keeps_the_images_it_lists() {
        let (_folder, store) = store();
        let image = test_images::put(&store, &Small::new("one"));
        let index = test_images::put_index(&store, &[image.manifest]);
        store.collect(&HashSet::from([index]), HOUR, later()).unwrap();
        assert!(image.all().iter().all(|digest| store.size_of(digest).unwrap().is_some()));
    }

    #[test]
    fn young_blobs_stay_and_confirmed_ones_are_young() {
        let (_folder, store) = store();
        let digest = store.put(b"upload under way").unwrap();
        assert_eq!(store.collect(&HashSet::new(), HOUR, SystemTime::now()).unwrap(), Collected::default());
        let path = store.blob_path(&digest);
        fs::File::open(&path).unwrap().set_modified(SystemTime::now() - 2 * HOUR).unwrap();
        assert_eq!(store.confirm(&digest).unwrap(), Some(16));
        assert_eq!(store.collect(&HashSet::new(), HOUR, SystemTime::now()).unwrap(), Collected::default());
        fs::File::open(&path).unwrap().set_modified(SystemTime::now() - 2 * HOUR).unwrap();
        assert_eq!(store.collect(&HashSet::new(), HOUR, SystemTime::now()).unwrap().blobs, 1);
    }

    #[test]
    fn untagged_manifests_leave_their_repository_when_they_are_gone() {
        let (_folder, store) = store();
        let image = test_images::put(&store, &Small::new("one"));
        let repository = "a/b".parse().unwrap();
        store.add_manifest(&repository, image.manifest).unwrap();
        assert_eq!(store.collect(&HashSet::new(), HOUR, SystemTime::now()).unwrap(), Collected::default());
        assert_eq!(store.collect(&HashSet::new(), HOUR, later()).unwrap().manifests, 1);
        assert!(store.repositories().is_empty());
    }

    #[test]
    fn layers_go_with_their_image() {
        let (_folder, store) = store();
        let kept = test_images::put(&store, &Small::new("kept"));
        for diff_id in [kept.diff_id, Digest::of(b"other")] {
            fs::create_dir(store.layers_path().join(diff_id.hex())).unwrap();
        }
        let collected = store.collect(&HashSet::from([kept.manifest]), HOUR, later()).unwrap();
        assert_eq!(collected.layers, 1);
        assert!(store.layers_path().join(kept.diff_id.hex()).exists());
    }

    #[test]
    fn a_pinned_manifest_that_cannot_be_read_stops_collection() {
        let (_folder, store) = store();
        let nonsense = store.put(b"no manifest").unwrap();
        let other = store.put(b"other").unwrap();
        assert!(store.collect(&HashSet::from([nonsense]), HOUR, later()).is_err());
        assert!(store.size_of(&other).unwrap().is_some());
    }
}
