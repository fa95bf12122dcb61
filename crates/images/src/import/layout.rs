//! OCI layouts: `oci-layout`, `index.json`, `blobs/sha256/<hex>`.

use bytes::Bytes;
use serde::Deserialize;

use super::{Files, ImportError, Part, Plan, choose};
use crate::{
    Digest, StoreError,
    image::Image,
    layer::UnpackLimits,
    manifest::{Descriptor, Document, Index, Platform},
    store::{MAX_CONFIG, MAX_MANIFEST},
};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutMarker {
    image_layout_version: String,
}

pub(super) fn plan(files: &dyn Files, choice: Option<&str>, limits: &UnpackLimits) -> Result<Plan, ImportError> {
    let read = |path: &str, limit| files.read(path, limit)?.ok_or_else(|| missing(path));
    let marker: LayoutMarker = serde_json::from_slice(&read("oci-layout", MAX_MANIFEST)?)
        .map_err(|source| ImportError::Json { file: "oci-layout".to_owned(), source })?;
    if marker.image_layout_version != "1.0.0" {
        let reason = format!("its version is {:?}, expected \"1.0.0\"", marker.image_layout_version);
        return Err(ImportError::File { file: "oci-layout".to_owned(), reason });
    }
    let index = match Document::parse(&read("index.json", MAX_MANIFEST)?) {
        Ok(Document::Index(index)) => index,
        Ok(Document::Manifest(_)) => {
            let reason = "it is a manifest instead of an index".to_owned();
            return Err(ImportError::File { file: "index.json".to_owned(), reason });
        }
        Err(error) => {
            return Err(ImportError::File { file: "index.json".to_owned(), reason: error.to_string() });
        }
    };
    let (names, entry) = choose(by_name(index), choice)?;

    let mut manifest_bytes = Vec::new();
    let (digest, manifest) = Image::manifest_for_us(entry.digest, |digest| {
        manifest_bytes = blob(files, digest, MAX_MANIFEST)?;
        Ok::<_, ImportError>(Bytes::copy_from_slice(&manifest_bytes))
    })?;
    let config_bytes = blob(files, &manifest.config.digest, MAX_CONFIG)?;
    let part = |layer: &Descriptor| Part { path: blob_path(&layer.digest), descriptor: layer.clone() };
    let layers = manifest.layers.iter().map(part).collect();
    let image = Image::assemble(digest, manifest, &config_bytes, limits)?;
    Ok(Plan { image, manifest_bytes, config_bytes, layers, names })
}

/// The images of a layout. Entries of one name, or all without one, are one image for several
/// platforms.
fn by_name(index: Index) -> Vec<(Vec<String>, Descriptor)> {
    let mut groups: Vec<(Vec<String>, Vec<Descriptor>)> = Vec::new();
    for entry in index.manifests {
        let names: Vec<_> =
            [REF_NAME, CONTAINERD_NAME].iter().filter_map(|key| entry.annotations.get(*key)).cloned().collect();
        match groups.iter_mut().find(|(known, _)| *known == names) {
            Some((_, entries)) => entries.push(entry),
            None => groups.push((names, vec![entry])),
        }
    }
    let for_us = |(names, mut manifests): (Vec<String>, Vec<Descriptor>)| {
        // A single image is taken as it is; its configuration says whether it fits.
        let entry = match manifests.len() {
            1 => manifests.pop(),
            _ => Index { manifests }.choose(&Platform::ours()).ok().cloned(),
        };
        Some((names, entry?))
    };
    groups.into_iter().filter_map(for_us).collect()
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn missing(path: &str) -> ImportError {
    ImportError::File { file: path.to_owned(), reason: "it is not there".to_owned() }
}

/// A small blob, verified.
fn blob(files: &dyn Files, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImportError> {
    let path = blob_path(digest);
    let bytes = files.read(&path, limit)?.ok_or_else(|| missing(&path))?;
    match Digest::of(&bytes) {
        found if found == *digest => Ok(bytes),
        found => Err(StoreError::WrongDigest { expected: *digest, found }.into()),
    }
}
