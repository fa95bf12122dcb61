//! Images from files: every form in, hostile ones refused whole, and a kill that leaves the store usable.

mod common;

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use atoll_images::{
    Digest, ImageStore, ImportError, Imported, UnpackLimits, ensure_image, import_archive, import_path,
};
use common::{Layer, Nowhere, TestImage, TestStore, append, gzip, has_program, need_root};
use serde_json::json;

fn limits() -> UnpackLimits {
    UnpackLimits::default()
}

fn sample() -> TestImage {
    TestImage::gzipped(vec![
        Layer::new().folder("etc/").file("etc/motd", "hello").file("gone", "x").build(),
        Layer::new().file(".wh.gone", "").file("added", "y").build(),
    ])
}

fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", told(source)),
        None => error.to_string(),
    }
}

fn import(bytes: &[u8]) -> (Result<Imported, ImportError>, TestStore) {
    let store = TestStore::new();
    (import_archive(&store.store, bytes, None, &limits()), store)
}

fn refused(bytes: &[u8]) -> String {
    let (result, store) = import(bytes);
    store.assert_empty();
    told(&result.unwrap_err())
}

/// What `docker save` of older versions writes: links between equal layers, the list last.
fn docker_archive(image: &TestImage, tags: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut paths = Vec::new();
    for (at, layer) in image.layers.iter().enumerate() {
        append(&mut builder, &format!("l{at}/layer.tar"), layer);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, format!("s{at}/layer.tar"), format!("../l{at}/layer.tar")).unwrap();
        paths.push(format!("s{at}/layer.tar"));
    }
    append(&mut builder, "config.json", &image.config);
    let list = json!([{"Config": "config.json", "RepoTags": tags, "Layers": paths}]);
    append(&mut builder, "manifest.json", list.to_string().as_bytes());
    builder.into_inner().unwrap()
}

#[test]
fn a_layout_comes_in_as_folder_and_as_archive_of_every_packing() {
    let image = sample();
    let folder = tempfile::tempdir().unwrap();
    let layout = image.write_layout(&folder.path().join("layout"));
    let plain = image.archive();
    for (name, bytes) in
        [("a.tar", plain.clone()), ("a.tar.gz", gzip(&plain)), ("a.zst", zstd::encode_all(&plain[..], 1).unwrap())]
    {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    for path in [layout, folder.path().join("a.tar"), folder.path().join("a.tar.gz"), folder.path().join("a.zst")] {
        let store = TestStore::new();
        let imported = import_path(&store.store, &path, None, &limits()).unwrap();
        assert_eq!((imported.image.digest, imported.names), (image.digest(), vec!["latest".to_owned()]));
        assert_eq!(imported.image.config.env, [("A".to_owned(), "b".to_owned())]);
        assert!(image.layers.iter().all(|layer| store.store.size_of(&Digest::of(layer)).unwrap().is_some()));
        // Once more changes nothing.
        assert_eq!(import_path(&store.store, &path, None, &limits()).unwrap().image, imported.image);
    }
}

#[tokio::test]
async fn a_docker_archive_gets_a_manifest_and_unpacks() {
    need_root();
    let image = TestImage::plain(vec![Layer::new().file("a", "1").build(), Layer::new().file("b", "2").build()]);
    let (imported, store) = import(&docker_archive(&image, &["web:v1"]));
    let imported = imported.unwrap();
    assert_eq!(imported.names, ["web:v1"]);
    let unpacked = ensure_image(&store.store, &Nowhere, imported.image.digest, &limits()).await.unwrap();
    assert!(unpacked.layers[0].join("a").exists() && unpacked.layers[1].join("b").exists());
}

#[test]
fn of_several_images_one_is_chosen_by_name() {
    let (one, two) = (sample(), TestImage::plain(vec![Layer::new().file("two", "").build()]));
    let folder = tempfile::tempdir().unwrap();
    one.write_layout(folder.path());
    two.write_layout(folder.path());
    let entry = |image: &TestImage, name: &str| {
        json!({"mediaType": common::OCI_MANIFEST, "digest": image.digest(), "size": image.manifest.len(),
               "annotations": {"org.opencontainers.image.ref.name": name}})
    };
    let index = json!({"schemaVersion": 2, "manifests": [entry(&one, "one"), entry(&two, "two")]});
    fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
    let store = TestStore::new();
    let import = |choice| import_path(&store.store, folder.path(), choice, &limits());
    assert!(told(&import(None).unwrap_err()).contains("choose one of: one, two"));
    assert!(told(&import(Some("three")).unwrap_err()).contains("no image \"three\", only: one, two"));
    store.assert_empty();
    assert_eq!(import(Some("two")).unwrap().image.digest, two.digest());
}

#[test]
fn hostile_and_broken_archives_are_refused_whole() {
    let says = |bytes: &[u8], words: &str| {
        let said = refused(bytes);
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    };
    says(b"", "no image");
    says(&b"nonsense".repeat(200), "checksum");
    says(&Layer::new().file("oci-layout", r#"{"imageLayoutVersion":"9"}"#).build(), "version is \"9\"");
    says(&Layer::new().file("../index.json", "{}").build(), "out of the image's root");
    says(&Layer::new().raw("dev", b'3', b"", |_| {}).build(), "device");
    says(&Layer::new().file("manifest.json", "[{\"Config\":\"c\"}]").build(), "c cannot be used: it is not there");
    says(&Layer::new().file("manifest.json", "[").build(), "manifest.json is not what it should be");
    let archive = sample().archive();
    says(&archive[..archive.len() / 2], "ends in");

    // Good blobs, a bad layer: nothing of the image comes in.
    let evil = TestImage::gzipped(vec![Layer::new().file("ok", "").build(), Layer::new().file("../x", "").build()]);
    says(&evil.archive(), "out of the image's root");
    says(&docker_archive(&evil, &[]), "out of the image's root");
    let lying = TestImage::packed(vec![(gzip(&Layer::new().file("a", "").build()), Digest::of(b"other"))]);
    says(&lying.archive(), "diff_id");
    let mut swapped = sample();
    swapped.manifest = String::from_utf8(swapped.manifest).unwrap().replace("\"size\":", "\"size\":1").into_bytes();
    says(&swapped.archive(), "expected");
    let mut foreign = sample();
    foreign.config = String::from_utf8(foreign.config).unwrap().replace("amd64", "s390x").into_bytes();
    says(&docker_archive(&foreign, &[]), "made for linux/s390x");
}

#[test]
fn a_layout_folder_cannot_lead_out_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let layout = sample().write_layout(&folder.path().join("layout"));
    let blob = layout.join("blobs/sha256").join(Digest::of(&sample().layers[0]).hex());
    fs::rename(&blob, folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../../../elsewhere", &blob).unwrap();
    let store = TestStore::new();
    let error = import_path(&store.store, &layout, None, &limits()).unwrap_err();
    assert!(told(&error).contains("symbolic link"), "{}", told(&error));
    store.assert_empty();
}

#[test]
fn archives_from_the_fuzzer_never_panic() {
    let archive = sample().archive();
    for at in (0..archive.len()).step_by(97) {
        let mut spoiled = archive.clone();
        spoiled[at] ^= 0x5a;
        // Whatever they answer.
        let _ = (atoll_images::fuzz::archive(&spoiled), atoll_images::fuzz::layer(&spoiled[at..]));
    }
    assert_eq!(atoll_images::fuzz::archive(&archive).unwrap().image.digest, sample().digest());
}

const KILLED_STORE: &str = "ATOLL_TEST_KILLED_STORE";

/// The process that [`a_killed_import_leaves_a_usable_store`] kills; alone it does nothing.
#[test]
fn killed_importer() {
    let Ok(root) = std::env::var(KILLED_STORE) else { return };
    let store = ImageStore::open(root).unwrap();
    let _ = import_archive(&store, std::io::stdin(), None, &limits());
}

#[test]
fn a_killed_import_leaves_a_usable_store() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_importer", "--nocapture"])
        .env(KILLED_STORE, &root)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Half of an archive, and then silence: the import hangs in the middle of a blob.
    let noise: Vec<u8> = (0..500_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let image = TestImage::plain(vec![Layer::new().raw("noise", b'0', &noise, |_| {}).build()]);
    let archive = image.archive();
    let stdin = child.stdin.as_mut().unwrap();
    std::io::Write::write_all(stdin, &archive[..archive.len() / 2]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let unfinished = || fs::read_dir(root.join("tmp")).map(|entries| entries.count()).unwrap_or(0);
    while unfinished() < 2 {
        assert!(Instant::now() < deadline, "the import never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    assert!(unfinished() > 0);
    let store = ImageStore::open(&root).unwrap();
    assert_eq!(unfinished(), 0);
    assert_eq!(fs::read_dir(root.join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(import_archive(&store, &archive[..], None, &limits()).unwrap().image.digest, image.digest());
}

#[tokio::test]
async fn the_mounted_layers_are_what_umoci_unpacks() {
    need_root();
    if !has_program("umoci") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = TestImage::gzipped(vec![
        Layer::new()
            .folder("etc/")
            .file("etc/motd", "first")
            .file("etc/removed", "x")
            .folder("var/")
            .file("var/old", "hidden")
            .symlink("var/link", "/etc/motd")
            .raw("su", b'0', b"program", |header| header[100..107].copy_from_slice(b"0004755"))
            .build(),
        Layer::new()
            .folder("etc/")
            .file("etc/.wh.removed", "")
            .folder("var/")
            .file("var/.wh..wh..opq", "")
            .file("var/new", "shown")
            .hard_link("var/second", "var/new")
            .build(),
    ]);
    let layout = image.write_layout(&folder.path().join("layout"));
    let expected = folder.path().join("bundle");
    let source = format!("{}:latest", layout.display());
    let umoci = Command::new("umoci").args(["unpack", "--image", &source]).arg(&expected).output().unwrap();
    assert!(umoci.status.success(), "umoci: {}", String::from_utf8_lossy(&umoci.stderr));

    let store = TestStore::new();
    let digest = import_path(&store.store, &layout, None, &limits()).unwrap().image.digest;
    let unpacked = ensure_image(&store.store, &Nowhere, digest, &limits()).await.unwrap();
    let view = folder.path().join("view");
    fs::create_dir(&view).unwrap();
    let lower: Vec<_> = unpacked.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let mount = Mount::overlay(&view, &lower.join(":"));
    assert_eq!(listing(&mount.0), listing(&expected.join("rootfs")));
}

struct Mount(std::path::PathBuf);

impl Mount {
    fn overlay(at: &Path, lower: &str) -> Self {
        let data = std::ffi::CString::new(format!("lowerdir={lower}")).unwrap();
        rustix::mount::mount("atoll-test", at, "overlay", rustix::mount::MountFlags::RDONLY, data.as_c_str()).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// Every path with its kind, mode, owner, time and content.
fn listing(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut lines = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let mut content = String::new();
            if metadata.is_dir() {
                open.push(path.clone());
            } else if metadata.is_symlink() {
                content = fs::read_link(&path).unwrap().display().to_string();
            } else {
                fs::File::open(&path).unwrap().read_to_string(&mut content).unwrap();
            }
            let place = path.strip_prefix(root).unwrap().display();
            let owner = (metadata.uid(), metadata.gid());
            lines.push(format!("{place} {:o} {owner:?} {} {content}", metadata.mode(), metadata.mtime()));
        }
    }
    lines.sort();
    lines
}
