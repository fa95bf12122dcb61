//! Docker archives: `manifest.json` names a configuration and the layers by path. A manifest is made
//! for them, so that from then on the image is like every other.

use serde::Deserialize;

use super::{Files, ImportError, Part, Plan, choose};
use crate::{
    Digest,
    image::Image,
    layer::UnpackLimits,
    manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_MANIFEST, null_as_default},
    store::MAX_CONFIG,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default, deserialize_with = "null_as_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    layers: Vec<String>,
}

pub(super) fn plan(
    files: &dyn Files,
    manifest: &[u8],
    choice: Option<&str>,
    limits: &UnpackLimits,
) -> Result<Plan, ImportError> {
    let json = |source| ImportError::Json { file: "manifest.json".to_owned(), source };
    let images: Vec<SavedImage> = serde_json::from_slice(manifest).map_err(json)?;
    let images = images.into_iter().map(|image| (image.repo_tags.clone(), image)).collect();
    let (names, saved) = choose(images, choice)?;

    let missing = |path: &str| ImportError::File { file: path.to_owned(), reason: "it is not there".to_owned() };
    let config_bytes = files.read(&saved.config, MAX_CONFIG)?.ok_or_else(|| missing(&saved.config))?;
    let part = |path: String| match files.describe(&path) {
        Some(descriptor) => Ok(Part { path, descriptor }),
        None => Err(missing(&path)),
    };
    let layers: Vec<Part> = saved.layers.into_iter().map(part).collect::<Result<_, _>>()?;
    let config = Descriptor {
        media_type: OCI_CONFIG.to_owned(),
        digest: Digest::of(&config_bytes),
        size: config_bytes.len() as u64,
        platform: None,
        annotations: Default::default(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_owned(),
        config,
        layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
    };
    let manifest_bytes = serde_json::to_vec(&manifest).map_err(json)?;
    let image = Image::assemble(Digest::of(&manifest_bytes), manifest, &config_bytes, limits)?;
    Ok(Plan { image, manifest_bytes, config_bytes, layers, names })
}
