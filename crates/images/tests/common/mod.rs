//! What the integration tests share: layers made by hand, images made of layers, a registry that
//! really listens.

// Every test binary takes its own part of this.
#![allow(dead_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use async_trait::async_trait;
use atoll_images::{
    BlobSource, BlobStream, Digest, ImageStore, Repository, SourceError,
    registry::{self, Action, Authorizer, Credential, Verdict},
};
use serde_json::json;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Owners, devices and trusted attributes need it.
pub fn need_root() {
    assert!(rustix::process::geteuid().is_root(), "this test unpacks owners and whiteouts: run it as root");
}

/// Whether a foreign program is installed; says that a test is skipped if not.
pub fn has_program(name: &str) -> bool {
    let found = Command::new(name).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {name} is not installed (apt-get install {name})");
    }
    found
}

/// A store in a folder that goes with it.
pub struct TestStore {
    pub folder: tempfile::TempDir,
    pub store: ImageStore,
}

impl TestStore {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    fn count(&self, part: &str) -> usize {
        fs::read_dir(self.store.root().join(part)).unwrap().count()
    }

    /// Nothing unfinished and no layer.
    pub fn assert_nothing_unpacked(&self) {
        assert_eq!((self.count("tmp"), self.count("layers")), (0, 0));
    }

    /// As if it had just been made.
    pub fn assert_empty(&self) {
        self.assert_nothing_unpacked();
        assert_eq!(self.count("blobs/sha256"), 0);
    }
}

/// A layer under construction, one raw header at a time.
#[derive(Default, Clone)]
pub struct Layer(Vec<u8>);

impl Layer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a header that `edit` may spoil before the checksum is set, and a body.
    pub fn raw(mut self, path: &str, kind: u8, body: &[u8], edit: impl FnOnce(&mut [u8; 512])) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(body.len() as u64);
        let bytes = header.as_mut_bytes();
        bytes[..path.len()].copy_from_slice(path.as_bytes());
        bytes[156] = kind;
        edit(bytes);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        self.raw(path, b'0', content.as_bytes(), |_| {})
    }

    pub fn folder(self, path: &str) -> Self {
        self.raw(path, b'5', b"", |_| {})
    }

    pub fn link(self, kind: u8, path: &str, target: &str) -> Self {
        self.raw(path, kind, b"", |header| header[157..157 + target.len()].copy_from_slice(target.as_bytes()))
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(b'2', path, target)
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(b'1', path, target)
    }

    /// An extended header before the next entry.
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
            body.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
        }
        self.raw("pax", b'x', &body, |_| {})
    }

    /// The archive without its end.
    pub fn open_end(self) -> Vec<u8> {
        self.0
    }

    pub fn build(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// An image as blobs.
#[derive(Clone)]
pub struct TestImage {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

impl TestImage {
    /// Packed layers with the unpacked layers' digests.
    pub fn packed(layers: Vec<(Vec<u8>, Digest)>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|(_, diff_id)| diff_id).collect();
        let config = json!({
            "os": "linux", "architecture": "amd64", "created": "2024-01-01T00:00:00Z",
            "config": {"Cmd": ["/run"], "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes();
        let layers: Vec<_> = layers.into_iter().map(|(layer, _)| layer).collect();
        let described: Vec<_> = layers
            .iter()
            .map(|layer| {
                let media_type = match layer.get(..2) {
                    Some([0x1f, 0x8b]) => format!("{OCI_LAYER}+gzip"),
                    Some([0x28, 0xb5]) => format!("{OCI_LAYER}+zstd"),
                    _ => OCI_LAYER.to_owned(),
                };
                json!({"mediaType": media_type, "digest": Digest::of(layer), "size": layer.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": Digest::of(&config), "size": config.len()},
            "layers": described,
        });
        Self { manifest: manifest.to_string().into_bytes(), config, layers }
    }

    pub fn plain(layers: Vec<Vec<u8>>) -> Self {
        Self::packed(
            layers
                .into_iter()
                .map(|layer| {
                    let diff_id = Digest::of(&layer);
                    (layer, diff_id)
                })
                .collect(),
        )
    }

    pub fn gzipped(layers: Vec<Vec<u8>>) -> Self {
        Self::packed(layers.into_iter().map(|layer| (gzip(&layer), Digest::of(&layer))).collect())
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }

    pub fn put(&self, store: &ImageStore) -> Digest {
        for blob in self.blobs() {
            store.put(blob).unwrap();
        }
        self.digest()
    }

    fn index(&self) -> String {
        json!({"schemaVersion": 2, "manifests": [{
            "mediaType": OCI_MANIFEST, "digest": self.digest(), "size": self.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "latest"},
        }]})
        .to_string()
    }

    /// Writes an OCI layout folder.
    pub fn write_layout(&self, folder: &Path) -> PathBuf {
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(folder.join("index.json"), self.index()).unwrap();
        for blob in self.blobs() {
            fs::write(folder.join("blobs/sha256").join(Digest::of(blob).hex()), blob).unwrap();
        }
        folder.to_owned()
    }

    /// The layout as an archive.
    pub fn archive(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        append(&mut builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        append(&mut builder, "index.json", self.index().as_bytes());
        for blob in self.blobs() {
            append(&mut builder, &format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
        }
        builder.into_inner().unwrap()
    }
}

pub fn append(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, content).unwrap();
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A source that has nothing: for images that must be there already.
pub struct Nowhere;

#[async_trait]
impl BlobSource for Nowhere {
    async fn open(&self, digest: &Digest, _: u64) -> Result<BlobStream, SourceError> {
        Err(SourceError::Missing { what: digest.to_string(), place: "nowhere".to_owned() })
    }
}

/// The token `good` may do everything in the app `mine` and read `shared`.
pub struct TestAuthorizer;

#[async_trait]
impl Authorizer for TestAuthorizer {
    async fn authorize(
        &self,
        action: Action,
        repository: Option<&Repository>,
        credential: Option<&Credential>,
    ) -> Verdict {
        match (credential.map(Credential::token), repository.map(Repository::app), action) {
            (Some("good"), None | Some("mine"), _) | (Some("good"), Some("shared"), Action::Pull) => Verdict::Allow,
            (Some("other"), None | Some("other" | "shared"), _) => Verdict::Allow,
            (Some("good" | "other"), ..) => Verdict::Deny,
            _ => Verdict::Unauthenticated,
        }
    }
}

/// A registry on a port of its own, until it is dropped.
pub struct TestRegistry {
    pub store: TestStore,
    pub address: String,
    task: tokio::task::JoinHandle<()>,
}

impl TestRegistry {
    pub async fn start() -> Self {
        let store = TestStore::new();
        let router = registry::router(store.store.clone(), Arc::new(TestAuthorizer));
        let (address, task) = serve(router).await;
        Self { store, address, task }
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn serve(router: axum::Router) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, task)
}
