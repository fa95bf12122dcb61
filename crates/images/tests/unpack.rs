//! Honest layers come out as they went in; hostile ones are refused and leave nothing.

mod common;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use atoll_images::{Digest, EnsureError, UnpackLimits, UnpackedImage, ensure_image};
use common::{Layer, Nowhere, TestImage, TestStore, gzip, need_root};

async fn unpack(store: &TestStore, image: &TestImage, limits: &UnpackLimits) -> Result<UnpackedImage, EnsureError> {
    need_root();
    ensure_image(&store.store, &Nowhere, image.put(&store.store), limits).await
}

/// Unpacks one honest layer.
async fn honest(layer: Vec<u8>) -> (TestStore, PathBuf) {
    let store = TestStore::new();
    let image = unpack(&store, &TestImage::gzipped(vec![layer]), &UnpackLimits::default()).await.unwrap();
    let folder = image.layers[0].clone();
    (store, folder)
}

/// The error with its causes, as a user reads it.
fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", told(source)),
        None => error.to_string(),
    }
}

/// Unpacks a hostile layer and gives what is said about it, after looking that nothing is left.
async fn refused_with(image: TestImage, limits: UnpackLimits) -> String {
    let store = TestStore::new();
    let outside = store.folder.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let error = unpack(&store, &image, &limits).await.expect_err("a hostile layer was unpacked");
    store.assert_nothing_unpacked();
    assert_eq!(fs::read_to_string(outside).unwrap(), "untouched");
    told(&error)
}

async fn refused(layer: Vec<u8>) -> String {
    refused_with(TestImage::plain(vec![layer]), UnpackLimits::default()).await
}

fn assert_says(told: &str, words: &[&str]) {
    for word in words {
        assert!(told.contains(word), "{told:?} does not say {word:?}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn owners_modes_times_and_links_come_out() {
    let layer = Layer::new()
        .folder("bin/")
        .raw("bin/su", b'0', b"set-id", |header| {
            header[100..107].copy_from_slice(b"0004755");
            header[108..115].copy_from_slice(b"0001750");
            header[116..123].copy_from_slice(b"0000144");
        })
        .hard_link("bin/su2", "bin/su")
        .symlink("passwd", "/etc/passwd")
        .raw("pipe", b'6', b"", |_| {})
        .pax(&[
            ("mtime", "1600000000.5"),
            ("SCHILY.xattr.user.note", "kept"),
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ])
        .file("note", "text")
        .pax(&[("path", &format!("long/{}", "n".repeat(200)))])
        .file("x", "long")
        .file("bin/later", "changes the folder's time");
    let (_store, root) = honest(layer.build()).await;

    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime(), su.nlink()), (0o4755, 1000, 100, 1_700_000_000, 2));
    assert_eq!(su.ino(), fs::metadata(root.join("bin/su2")).unwrap().ino());
    assert_eq!(fs::metadata(root.join("bin")).unwrap().mtime(), 1_700_000_000);
    assert_eq!(fs::read_link(root.join("passwd")).unwrap(), Path::new("/etc/passwd"));
    assert!(fs::metadata(root.join("pipe")).unwrap().file_type().is_fifo());
    let note = fs::metadata(root.join("note")).unwrap();
    assert_eq!((note.mtime(), note.mtime_nsec()), (1_600_000_000, 500_000_000));
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(root.join("note"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"kept");
    assert!(rustix::fs::getxattr(root.join("note"), "trusted.overlay.opaque", &mut value).is_err());
    assert_eq!(fs::read_to_string(root.join("long").join("n".repeat(200))).unwrap(), "long");
}

#[tokio::test]
async fn whiteouts_become_what_an_overlay_mount_understands() {
    let layer = Layer::new()
        .file("etc/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "")
        .file("anew/.wh..wh.plnk", "")
        .file(".wh.anew2", "")
        .folder("anew2/")
        .file("kept", "of this layer")
        .file(".wh.kept", "");
    let (_store, root) = honest(layer.build()).await;
    let gone = fs::symlink_metadata(root.join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let is_opaque = |name: &str| {
        let mut value = [0; 4];
        rustix::fs::getxattr(root.join(name), "trusted.overlay.opaque", &mut value)
            .is_ok_and(|length| &value[..length] == b"y")
    };
    assert!(is_opaque("opaque") && root.join("opaque/new").exists());
    assert!(is_opaque("anew2"), "a folder removed below and made anew hides what was below");
    assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "of this layer");
    assert!(!root.join("anew").exists());
}

#[tokio::test]
async fn of_entries_of_one_name_the_last_counts() {
    let layer = Layer::new()
        .file("a", "first")
        .file("a", "second")
        .symlink("b", "/outside")
        .file("b", "a file now")
        .folder("c/")
        .symlink("c", "a")
        .folder("d/")
        .raw("d/", b'5', b"", |header| header[100..107].copy_from_slice(b"0001777"));
    let (_store, root) = honest(layer.build()).await;
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "second");
    assert!(fs::symlink_metadata(root.join("b")).unwrap().is_file());
    assert_eq!(fs::read_link(root.join("c")).unwrap(), Path::new("a"));
    assert_eq!(mode(&root.join("d")), 0o1777);
}

#[tokio::test]
async fn every_packing_is_unpacked_and_layers_are_shared() {
    let layer = Layer::new().file("a", "content").build();
    let diff_id = Digest::of(&layer);
    let zstd = zstd::encode_all(&layer[..], 3).unwrap();
    let store = TestStore::new();
    let mut folders = Vec::new();
    for packed in [layer.clone(), gzip(&layer), zstd] {
        let image = TestImage::packed(vec![(packed, diff_id)]);
        folders.extend(unpack(&store, &image, &UnpackLimits::default()).await.unwrap().layers);
    }
    assert_eq!(folders, vec![folders[0].clone(); 3]);
}

#[tokio::test]
async fn calls_at_the_same_time_share_one_unpacking() {
    need_root();
    let store = TestStore::new();
    let digest = TestImage::gzipped(vec![Layer::new().file("a", &"x".repeat(1 << 20)).build()]).put(&store.store);
    let limits = UnpackLimits::default();
    let calls = (0..8).map(|_| ensure_image(&store.store, &Nowhere, digest, &limits));
    let images = futures_util::future::try_join_all(calls).await.unwrap();
    assert!(images.iter().all(|image| *image == images[0]));
    assert_eq!(fs::read_dir(store.store.root().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_layer_that_hides_all_below_leaves_them_out_and_equal_layers_come_once() {
    let (a, b) = (Layer::new().file("a", "").build(), Layer::new().file("b", "").build());
    let all_new = Layer::new().file(".wh..wh..opq", "").file("c", "").build();
    let store = TestStore::new();
    let image = TestImage::plain(vec![a.clone(), all_new, b.clone(), a, b]);
    let unpacked = unpack(&store, &image, &UnpackLimits::default()).await.unwrap();
    let has = |at: usize, name: &str| unpacked.layers[at].join(name).exists();
    assert!(unpacked.layers.len() == 3 && has(0, "c") && has(1, "a") && has(2, "b"));
}

#[tokio::test]
async fn paths_out_of_the_root_are_refused() {
    assert_says(
        &refused(Layer::new().file("../outside", "x").build()).await,
        &["../outside", "out of the image's root"],
    );
    assert_says(&refused(Layer::new().file("a/../../outside", "x").build()).await, &["out of the image's root"]);
    assert_says(&refused(Layer::new().hard_link("a", "../../outside").build()).await, &["link's target", "out of"]);
    assert_says(&refused(Layer::new().pax(&[("path", "../outside")]).file("a", "x").build()).await, &["out of"]);
    assert_says(&refused(Layer::new().file("a/.wh...", "").build()).await, &["whiteout"]);
}

#[tokio::test]
async fn links_are_never_followed_when_writing() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let through = |layer: Layer| refused(layer.build());
    let link = Layer::new().symlink("link", target);
    assert_says(&through(link.clone().file("link/file", "x")).await, &["/link/file", "symbolic link"]);
    assert_says(&through(link.clone().folder("link/folder/")).await, &["symbolic link"]);
    assert_says(&through(link.clone().file("link/.wh.x", "")).await, &["symbolic link"]);
    assert_says(&through(link.clone().file("link/.wh..wh..opq", "")).await, &["symbolic link"]);
    assert_says(&through(link.clone().hard_link("a", "link/x")).await, &["hard link"]);
    assert_says(&through(Layer::new().symlink("l", "..").file("l/l/x", "")).await, &["symbolic link"]);
    assert_says(&through(Layer::new().symlink("l", "l").file("l/x", "")).await, &["symbolic link"]);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);

    // A hard link to a link is the link again, not what it points at.
    let (_store, root) = honest(link.hard_link("second", "link").file("second", "own file").build()).await;
    assert_eq!(fs::read_to_string(root.join("second")).unwrap(), "own file");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn absolute_paths_mean_the_layers_root() {
    let (_store, root) = honest(Layer::new().file("/etc/motd", "inside").build()).await;
    assert_eq!(fs::read_to_string(root.join("etc/motd")).unwrap(), "inside");
}

#[tokio::test]
async fn devices_and_unknown_entries_are_refused() {
    for kind in [b'3', b'4'] {
        assert_says(&refused(Layer::new().raw("dev/sda", kind, b"", |_| {}).build()).await, &["dev/sda", "device"]);
    }
    assert_says(&refused(Layer::new().raw("sparse", b'S', b"", |_| {}).build()).await, &["type", "S"]);
    assert_says(&refused(Layer::new().pax(&[("GNU.sparse.major", "1")]).file("a", "").build()).await, &["GNU.sparse"]);
    assert_says(&refused(Layer::new().hard_link("a", "nothing").build()).await, &["hard link", "/nothing"]);
    assert_says(&refused(Layer::new().file(".wh.x", "").hard_link("a", "x").build()).await, &["hard link"]);
    assert_says(&refused(Layer::new().folder("d/").hard_link("a", "d").build()).await, &["hard link"]);
    assert_says(&refused(Layer::new().symlink(".", "/").build()).await, &["folder"]);
}

#[tokio::test]
async fn headers_that_could_be_read_two_ways_are_refused() {
    let smuggled = Layer::new().pax(&[("size", "0")]).file("a", &"x".repeat(512)).build();
    assert_says(&refused(smuggled).await, &["512 bytes", "extended header 0"]);
    let body_of_a_link = Layer::new().raw("l", b'2', &[1; 512], |header| header[157] = b'a').build();
    assert_says(&refused(body_of_a_link).await, &["512 bytes of content"]);
    let twice = Layer::new().pax(&[("path", "a")]).pax(&[("path", "b")]).file("c", "").build();
    assert_says(&refused(twice).await, &["two extended headers"]);
    let both = Layer::new().pax(&[("path", "a")]).raw("long", b'L', b"b\0", |_| {}).file("c", "").build();
    assert_says(&refused(both).await, &["two headers speak of the path"]);
    let global = Layer::new().raw("global", b'g', b"10 size=9\n", |_| {}).file("c", "").build();
    assert_says(&refused(global).await, &["global size"]);
    assert_says(&refused(Layer::new().pax(&[("path", "a")]).build()).await, &["belongs to no entry"]);
    let owner = Layer::new().pax(&[("uid", "4294967295")]).file("a", "").build();
    assert_says(&refused(owner).await, &["4294967295", "no user or group"]);
    let large_extension = Layer::new().raw("pax", b'x', &vec![b'1'; 2 << 20], |_| {}).build();
    assert_says(&refused(large_extension).await, &["extended header", "2097152"]);
}

#[tokio::test]
async fn broken_archives_are_refused() {
    let good = Layer::new().file("a", &"x".repeat(2000)).open_end();
    assert_says(&refused(good[..1500].to_vec()).await, &["ends inside an entry"]);
    assert_says(&refused(b"no archive at all".repeat(100)).await, &["checksum"]);
    let cut = gzip(&Layer::new().file("a", &"abc".repeat(5000)).build());
    let cut_image = TestImage::packed(vec![(cut[..cut.len() / 2].to_vec(), Digest::of(b""))]);
    assert_says(&refused_with(cut_image, UnpackLimits::default()).await, &["cannot be read or decompressed"]);
    let garbage = TestImage::packed(vec![(vec![0x28, 0xb5, 0x2f, 0xfd, 9, 9, 9, 9], Digest::of(b""))]);
    assert_says(&refused_with(garbage, UnpackLimits::default()).await, &["cannot be read or decompressed"]);
}

#[tokio::test]
async fn wrong_digests_are_refused() {
    let layer = Layer::new().file("a", "x").build();
    let image = TestImage::packed(vec![(gzip(&layer), Digest::of(b"something else"))]);
    assert_says(&refused_with(image, UnpackLimits::default()).await, &["diff_id", &Digest::of(&layer).to_string()]);

    let store = TestStore::new();
    let image = TestImage::plain(vec![layer.clone()]);
    image.put(&store.store);
    let rotten = store.store.root().join("blobs/sha256").join(Digest::of(&layer).hex());
    fs::write(rotten, Layer::new().file("a", "y").build()).unwrap();
    need_root();
    let error = ensure_image(&store.store, &Nowhere, image.digest(), &UnpackLimits::default()).await.unwrap_err();
    assert_says(&told(&error), &["diff_id"]);
    store.assert_nothing_unpacked();
}

#[tokio::test]
async fn bombs_are_stopped_at_their_limit() {
    let limits = UnpackLimits { bytes: 1 << 20, entries: 10, ratio_floor: 64 << 10, ..UnpackLimits::default() };
    let says = |layer: Vec<u8>, limits: &UnpackLimits| refused_with(TestImage::gzipped(vec![layer]), limits.clone());
    let zeros = Layer::new().file("zeros", &"\0".repeat(512 << 10)).build();
    assert_says(&says(zeros.clone(), &limits).await, &["200 times", "bomb"]);
    let many = (0..20).fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), "")).build();
    assert_says(&says(many, &limits).await, &["more than 10 entries"]);
    let deep = Layer::new().pax(&[("path", &"d/".repeat(70))]).folder("x/").build();
    assert_says(&says(deep, &limits).await, &["deeper than 64"]);
    let long = Layer::new().pax(&[("path", &"dddd/".repeat(1000))]).folder("x/").build();
    assert_says(&says(long, &limits).await, &["longer than 4096"]);
    let name = Layer::new().pax(&[("path", &"n".repeat(256))]).file("x", "").build();
    assert_says(&says(name, &limits).await, &["255"]);
    let no_ratio = UnpackLimits { ratio: u64::MAX, bytes: 256 << 10, ..limits };
    assert_says(&says(zeros, &no_ratio).await, &["more than 262144 bytes"]);
    // A header that promises more than there is.
    let promise = Layer::new().raw("big", b'0', b"", |header| header[124..135].copy_from_slice(b"77777777777")).build();
    assert_says(&refused(promise).await, &["ends in"]);
}

#[tokio::test]
async fn the_limits_are_of_the_whole_image() {
    let layer = |name: &str| Layer::new().file(name, &"x".repeat(100 << 10)).build();
    let image = TestImage::plain(vec![layer("a"), layer("b"), layer("c")]);
    let limits = UnpackLimits { bytes: 250 << 10, ..UnpackLimits::default() };
    let store = TestStore::new();
    let error = told(&unpack(&store, &image, &limits).await.unwrap_err());
    assert_says(&error, &["unpacks to more than"]);
    let few = UnpackLimits { layers: 2, ..UnpackLimits::default() };
    assert_says(&told(&unpack(&store, &image, &few).await.unwrap_err()), &["3 layers, more than 2"]);
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let mount = Mount::small(folder.path());
    let store = atoll_images::ImageStore::open(mount.0.join("store")).unwrap();
    let image = TestImage::gzipped(vec![Layer::new().file("zeros", &"\0".repeat(3 << 20)).build()]);
    let digest = image.put(&store);
    let error = ensure_image(&store, &Nowhere, digest, &UnpackLimits::default()).await.unwrap_err();
    assert_says(&told(&error), &["No space left"]);
    assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
    let blob = store.put(&vec![7; 3 << 20]).unwrap_err();
    assert_says(&blob.to_string(), &["no space left", "free some"]);
    assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    drop(store);
}

/// Two MiB of memory as a file system.
struct Mount(PathBuf);

impl Mount {
    fn small(folder: &Path) -> Self {
        let data = c"size=2m,mode=755";
        rustix::mount::mount("atoll-test", folder, "tmpfs", rustix::mount::MountFlags::empty(), data).unwrap();
        Self(folder.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}
