//! From a digest to folders, with blobs from another store.

mod common;

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use atoll_images::{BlobSource, BlobStream, Digest, ImageStore, SourceError, UnpackLimits, ensure_image};
use common::{Layer, Nowhere, OCI_MANIFEST, TestImage, TestStore, need_root};
use futures_util::{StreamExt, stream};
use serde_json::json;

/// Gives from a store, counts, and breaks every stream after some bytes.
struct Flaky {
    store: ImageStore,
    opened: AtomicUsize,
    offsets: Mutex<Vec<u64>>,
    pieces: usize,
}

impl Flaky {
    fn new(store: &ImageStore, pieces: usize) -> Self {
        Self { store: store.clone(), opened: AtomicUsize::new(0), offsets: Mutex::default(), pieces }
    }
}

#[async_trait]
impl BlobSource for Flaky {
    async fn open(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.offsets.lock().unwrap().push(offset);
        let whole = self.store.open(digest, offset).await?;
        let broken = SourceError::Broken { place: "the test".to_owned(), source: "cut".into() };
        let size = whole.size;
        let bytes = whole.bytes.take(self.pieces).chain(stream::iter([Err(broken)]));
        Ok(BlobStream { size, bytes: bytes.boxed() })
    }
}

fn image() -> TestImage {
    let noise: Vec<u8> = (0..300_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    TestImage::plain(vec![Layer::new().raw("noise", b'0', &noise, |_| {}).build()])
}

#[tokio::test]
async fn a_missing_image_is_fetched_through_breaks_and_then_needs_no_source() {
    need_root();
    let (control, worker) = (TestStore::new(), TestStore::new());
    let digest = image().put(&control.store);
    let limits = UnpackLimits::default();
    let source = Flaky::new(&control.store, 1);
    let first = ensure_image(&worker.store, &source, digest, &limits).await.unwrap();
    assert!(source.offsets.lock().unwrap().iter().any(|offset| *offset > 0), "a break was taken up further on");
    assert_eq!(first.config.cmd, ["/run"]);
    assert_eq!(ensure_image(&worker.store, &Nowhere, digest, &limits).await.unwrap(), first);

    // Also after a restart, and when collection ran with the digest pinned.
    let TestStore { folder, store } = worker;
    store.collect(&[digest].into(), std::time::Duration::ZERO, std::time::SystemTime::now()).unwrap();
    drop(store);
    let store = ImageStore::open(folder.path().join("store")).unwrap();
    assert_eq!(ensure_image(&store, &Nowhere, digest, &limits).await.unwrap(), first);
    // And gone when it is pinned no more.
    let collected = store.collect(&[].into(), std::time::Duration::ZERO, std::time::SystemTime::now()).unwrap();
    assert_eq!((collected.blobs, collected.layers), (3, 1));
    assert!(ensure_image(&store, &Nowhere, digest, &limits).await.is_err());
}

#[tokio::test]
async fn calls_at_the_same_time_fetch_once() {
    need_root();
    let (control, worker) = (TestStore::new(), TestStore::new());
    let digest = image().put(&control.store);
    let source = Flaky::new(&control.store, usize::MAX);
    let limits = UnpackLimits::default();
    let calls = (0..6).map(|_| ensure_image(&worker.store, &source, digest, &limits));
    futures_util::future::try_join_all(calls).await.unwrap();
    // A blob's last stream breaks after its last byte and is not asked for again.
    assert!(source.opened.load(Ordering::SeqCst) <= 4, "{:?}", source.offsets);
}

#[tokio::test]
async fn of_an_index_the_image_for_this_platform_is_taken() {
    need_root();
    let control = TestStore::new();
    let image = image();
    image.put(&control.store);
    let entry = |architecture: &str, digest: Digest| {
        json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": image.manifest.len(),
               "platform": {"os": "linux", "architecture": architecture}})
    };
    let manifests = [entry("arm64", Digest::of(b"absent")), entry("amd64", image.digest())];
    let index = control.store.put(json!({"schemaVersion": 2, "manifests": manifests}).to_string().as_bytes()).unwrap();
    let worker = TestStore::new();
    let unpacked = ensure_image(&worker.store, &control.store, index, &UnpackLimits::default()).await.unwrap();
    assert_eq!(unpacked.digest, image.digest());
}

#[tokio::test]
async fn an_image_that_is_nowhere_says_what_is_missing() {
    let store = TestStore::new();
    let digest = Digest::of(b"nowhere");
    let error = ensure_image(&store.store, &Nowhere, digest, &UnpackLimits::default()).await.unwrap_err();
    assert!(error.to_string().contains(&digest.to_string()), "{error}");
    store.assert_empty();
}
