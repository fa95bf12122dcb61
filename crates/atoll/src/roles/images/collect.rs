//! Removing what no machine of this node needs: by age, and earlier when the disk fills up.
//!
//! The images of this node are listed as manifests of one repository of its store. The time of a
//! manifest's file is when the image was last used, so that ages outlive the process. The store removes a
//! file or folder at a time, each whole, and finds what is left over again: a kill at any moment costs a
//! repetition, and what is needed after all is fetched again.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use atoll_images::{Digest, ImageError, ImageStore, Repository, StoreError};
use atoll_signals::metrics::{Samples, Source, names};

/// An image used within this time stays, however full the disk is: a machine may be about to be made of
/// it, or be ending with it.
const GRACE: Duration = Duration::from_secs(3600);

/// When images go.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Since the last use.
    pub age: Duration,
    /// Below so many percent of free space images go earlier, the oldest first.
    pub reserve_percent: u8,
}

/// What collections of this process did.
#[derive(Default)]
pub struct Tally {
    done: AtomicU64,
    failed: AtomicU64,
    freed_bytes: AtomicU64,
    /// Percent, at the last look.
    free_percent: AtomicU64,
}

impl Tally {
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Source for Tally {
    fn collect(&self, samples: &mut Samples) {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        samples.counter(&names::WORKER_COLLECTIONS, &["done"], get(&self.done));
        samples.counter(&names::WORKER_COLLECTIONS, &["failed"], get(&self.failed));
        samples.counter(&names::WORKER_IMAGES_FREED, &[], get(&self.freed_bytes));
        samples.gauge(&names::WORKER_IMAGES_FREE, &[], get(&self.free_percent) as f64 / 100.0);
    }
}

/// Where a node lists its images; users' names are in control's store alone.
pub const USED: &str = "node/used";

/// Notes that an image that is here is used now. `list`: [`USED`].
pub fn note_use(store: &ImageStore, list: &Repository, image: Digest) -> Result<(), StoreError> {
    if store.has_manifest(list, &image) { store.confirm(&image).map(drop) } else { store.add_manifest(list, image) }
}

/// One collection. `free_percent` looks at the disk.
pub fn pass(
    store: &ImageStore,
    spared: &HashSet<Digest>,
    policy: Policy,
    now: SystemTime,
    free_percent: impl Fn() -> u8,
    tally: &Tally,
) -> Result<(), ImageError> {
    let mut age = policy.age.max(GRACE);
    loop {
        let collected = store.collect(spared, age, now)?;
        tally.freed_bytes.fetch_add(collected.blob_bytes + collected.layer_bytes, Ordering::Relaxed);
        if collected.blobs + collected.layers > 0 {
            tracing::info!(
                layers = collected.layers,
                bytes = collected.blob_bytes + collected.layer_bytes,
                unused_for_s = age.as_secs(),
                "removed images that no machine here needs"
            );
        }
        let free = free_percent();
        tally.free_percent.store(free.into(), Ordering::Relaxed);
        if age == GRACE || free >= policy.reserve_percent {
            tally.done.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        age = (age / 2).max(GRACE);
    }
}

/// How much of the disk under `path` unprivileged writers may still fill, in percent.
pub fn free_percent(path: &Path) -> u8 {
    match rustix::fs::statvfs(path) {
        Ok(disk) if disk.f_blocks > 0 => u8::try_from(disk.f_bavail.saturating_mul(100) / disk.f_blocks).unwrap_or(100),
        Ok(_) => 100,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot see how full the disk is");
            100
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const POLICY: Policy = Policy { age: Duration::from_secs(7 * 86_400), reserve_percent: 10 };

    /// An image of a configuration and one layer, neither of which is ever opened here; used at `used`.
    fn image(store: &ImageStore, name: &str, used: SystemTime) -> Digest {
        let layer = store.put(name.as_bytes()).unwrap();
        let config = json!({
            "os": "linux", "architecture": "amd64", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        });
        let config = config.to_string();
        let described = |digest: Digest, size: usize, kind: &str| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described(store.put(config.as_bytes()).unwrap(), config.len(), "config.v1+json"),
            "layers": [described(layer, name.len(), "layer.v1.tar")],
        });
        let digest = store.put(manifest.to_string().as_bytes()).unwrap();
        note_use(store, &USED.parse().unwrap(), digest).unwrap();
        for file in std::fs::read_dir(store.root().join("blobs/sha256")).unwrap() {
            let file = std::fs::File::open(file.unwrap().path()).unwrap();
            if file.metadata().unwrap().modified().unwrap() > used {
                file.set_modified(used).unwrap();
            }
        }
        digest
    }

    struct Node {
        _folder: tempfile::TempDir,
        store: ImageStore,
        now: SystemTime,
        tally: Tally,
    }

    impl Node {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = ImageStore::open(folder.path()).unwrap();
            Self { _folder: folder, store, now: SystemTime::now(), tally: Tally::default() }
        }

        /// Oldest first, or the times set for the younger ones would be taken for the older.
        fn image(&self, name: &str, age: Duration) -> Digest {
            image(&self.store, name, self.now - age)
        }

        fn has(&self, image: Digest) -> bool {
            self.store.size_of(&image).unwrap().is_some()
        }

        fn pass(&self, spared: &[Digest], free_percent: impl Fn() -> u8) {
            let spared = spared.iter().copied().collect();
            pass(&self.store, &spared, POLICY, self.now, free_percent, &self.tally).unwrap();
        }
    }

    #[test]
    fn images_go_by_age_unless_a_machine_needs_them() {
        let node = Node::new();
        let old = node.image("old", 8 * DAY);
        let needed = node.image("needed", 8 * DAY);
        let recent = node.image("recent", 6 * DAY);
        node.pass(&[needed], || 50);
        assert_eq!((node.has(old), node.has(needed), node.has(recent)), (false, true, true));
        assert!(node.tally.freed_bytes.load(Ordering::Relaxed) > 0);
        // What was used again is young again, for a process that opens the store later, too.
        note_use(&node.store, &USED.parse().unwrap(), needed).unwrap();
        node.pass(&[], || 50);
        assert!(node.has(needed));
    }

    #[test]
    fn a_full_disk_takes_the_oldest_first_and_leaves_what_was_just_used() {
        let node = Node::new();
        let names = ["oldest", "older", "old", "young"];
        let ages = [6 * DAY, 3 * DAY, DAY, GRACE / 2];
        let images: Vec<Digest> = names.iter().zip(ages).map(|(name, age)| node.image(name, age)).collect();
        let kept = || images.iter().map(|image| node.has(*image)).collect::<Vec<_>>();
        // There is enough once the oldest has gone.
        node.pass(&[], || if node.has(images[0]) { 5 } else { 15 });
        assert_eq!(kept(), [false, true, true, true]);
        let looks = Cell::new(0);
        node.pass(&[images[1]], || {
            looks.set(looks.get() + 1);
            0
        });
        assert_eq!(kept(), [false, true, false, true]);
        assert!(looks.get() < 20, "it looked {} times", looks.get());
        assert_eq!(node.tally.free_percent.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_disk_has_some_percent_left() {
        assert!(free_percent(Path::new("/proc/self")) <= 100 && free_percent(Path::new("/nonexistent")) == 100);
    }
}
