//! Small honest images for unit tests.

use crate::{
    Digest, ImageStore,
    manifest::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST},
};

/// An image of one uncompressed layer with one file.
pub struct Small {
    pub layer: Vec<u8>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

/// Where its parts are.
pub struct Stored {
    pub manifest: Digest,
    pub config: Digest,
    pub layer: Digest,
    pub diff_id: Digest,
}

impl Stored {
    pub fn all(&self) -> [Digest; 3] {
        [self.manifest, self.config, self.layer]
    }
}

impl Small {
    pub fn new(content: &str) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, "file", content.as_bytes()).unwrap();
        let layer = builder.into_inner().unwrap();
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64", "config": {"Cmd": ["/run"]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]},
        });
        let config = config.to_string().into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": Digest::of(&config), "size": config.len()},
            "layers": [{"mediaType": OCI_LAYER, "digest": Digest::of(&layer), "size": layer.len()}],
        });
        Self { layer, config, manifest: manifest.to_string().into_bytes() }
    }
}

pub fn put(store: &ImageStore, image: &Small) -> Stored {
    let layer = store.put(&image.layer).unwrap();
    Stored {
        layer,
        diff_id: layer,
        config: store.put(&image.config).unwrap(),
        manifest: store.put(&image.manifest).unwrap(),
    }
}

pub fn put_index(store: &ImageStore, manifests: &[Digest]) -> Digest {
    let entries: Vec<_> = manifests
        .iter()
        .map(|digest| serde_json::json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1}))
        .collect();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    store.put(index.to_string().as_bytes()).unwrap()
}
