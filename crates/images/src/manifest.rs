//! Manifests and indexes, in the forms of OCI and of Docker, as far as Atoll reads them.
//!
//! Our own types instead of a library's: only digests that we verify are accepted, Docker's `null`
//! for an empty list is, and a document that could be read two ways is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::Digest;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Every media type of a manifest or index that we read, as `Accept` headers want them.
pub const ACCEPTED: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

/// Points at a blob.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a manifest's programs run on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
}

impl Platform {
    /// The platform of Atoll's nodes.
    pub fn ours() -> Self {
        Self { os: "linux".to_owned(), architecture: "amd64".to_owned() }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// One image: a configuration and its layers, lowest first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Several manifests, usually one a platform.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    pub manifests: Vec<Descriptor>,
}

/// What a manifest's digest names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// Why a document is no manifest for us.
#[derive(Debug, Error)]
pub enum InvalidManifest {
    #[error("it is no image manifest")]
    Json(#[from] serde_json::Error),
    #[error("it has schema version {0}; only version 2 is supported")]
    SchemaVersion(u32),
    #[error("it has both manifests and layers, so it could be read in two ways")]
    Ambiguous,
    #[error("it has neither manifests nor a configuration with layers")]
    Neither,
    #[error("it says it is {said:?} and is not")]
    MediaType { said: String },
    #[error("it holds no image for {wanted}, only for {}", if available.is_empty() { "nothing" } else { available })]
    NoPlatform { wanted: Platform, available: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default, deserialize_with = "null_as_default")]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidManifest> {
        let raw: Raw = serde_json::from_slice(bytes)?;
        if raw.schema_version != 2 {
            return Err(InvalidManifest::SchemaVersion(raw.schema_version));
        }
        let media_type = raw.media_type;
        let is_one_of = |types: [&str; 2]| media_type.is_empty() || types.contains(&media_type.as_str());
        match (raw.config, raw.layers, raw.manifests) {
            (None, None, Some(manifests)) if is_one_of([OCI_INDEX, DOCKER_INDEX]) => {
                Ok(Self::Index(Index { manifests }))
            }
            (Some(config), Some(layers), None) if is_one_of([OCI_MANIFEST, DOCKER_MANIFEST]) => {
                let media_type = if media_type.is_empty() { OCI_MANIFEST.to_owned() } else { media_type };
                Ok(Self::Manifest(Manifest { schema_version: 2, media_type, config, layers }))
            }
            (None, None, Some(_)) | (Some(_), Some(_), None) => Err(InvalidManifest::MediaType { said: media_type }),
            (None, _, None) | (_, None, None) => Err(InvalidManifest::Neither),
            (_, _, Some(_)) => Err(InvalidManifest::Ambiguous),
        }
    }

    /// Everything that must be there for the document to be whole.
    pub fn references(&self) -> Vec<&Descriptor> {
        match self {
            Self::Manifest(manifest) => std::iter::once(&manifest.config).chain(&manifest.layers).collect(),
            Self::Index(index) => index.manifests.iter().collect(),
        }
    }

    /// Whether `digest` is among its references.
    pub fn names(&self, digest: &Digest) -> bool {
        self.references().iter().any(|reference| reference.digest == *digest)
    }

    /// The media type it is served under when it names none itself.
    pub fn default_media_type(&self) -> &'static str {
        match self {
            Self::Manifest(_) => OCI_MANIFEST,
            Self::Index(_) => OCI_INDEX,
        }
    }
}

/// The media type a stored document is served under.
pub fn media_type_of(bytes: &[u8]) -> Result<String, InvalidManifest> {
    let raw: Raw = serde_json::from_slice(bytes)?;
    Ok(if raw.media_type.is_empty() { Document::parse(bytes)?.default_media_type().to_owned() } else { raw.media_type })
}

impl Index {
    /// The entry for `platform`. An index with a single entry that names no platform means that one.
    pub fn choose(&self, platform: &Platform) -> Result<&Descriptor, InvalidManifest> {
        let named = self.manifests.iter().find(|entry| entry.platform.as_ref() == Some(platform));
        let only = || match &self.manifests[..] {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        named.or_else(only).ok_or_else(|| {
            let mut available: Vec<_> =
                self.manifests.iter().filter_map(|entry| Some(entry.platform.as_ref()?.to_string())).collect();
            available.sort();
            available.dedup();
            available.truncate(20);
            InvalidManifest::NoPlatform { wanted: platform.clone(), available: available.join(", ") }
        })
    }
}

/// Docker writes `null` where others leave a key out.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(platform: Option<&str>) -> serde_json::Value {
        let mut value = serde_json::json!({"mediaType": OCI_MANIFEST, "digest": Digest::of(b"x"), "size": 1});
        if let Some((os, architecture)) = platform.and_then(|text| text.split_once('/')) {
            value["platform"] = serde_json::json!({"os": os, "architecture": architecture});
        }
        value
    }

    fn parse(value: serde_json::Value) -> Result<Document, InvalidManifest> {
        Document::parse(value.to_string().as_bytes())
    }

    #[test]
    fn documents_that_could_be_two_things_are_refused() {
        let entry = descriptor(None);
        let both = serde_json::json!({"schemaVersion": 2, "config": entry, "layers": [], "manifests": []});
        assert!(matches!(parse(both), Err(InvalidManifest::Ambiguous)));
        let lying = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "config": entry, "layers": []});
        assert!(matches!(parse(lying), Err(InvalidManifest::MediaType { .. })));
        let twice = format!(r#"{{"schemaVersion":2,"manifests":[],"manifests":[{entry}]}}"#);
        assert!(matches!(Document::parse(twice.as_bytes()), Err(InvalidManifest::Json(_))));
        let old = serde_json::json!({"schemaVersion": 1, "manifests": []});
        assert!(matches!(parse(old), Err(InvalidManifest::SchemaVersion(1))));
        assert!(matches!(parse(serde_json::json!({"schemaVersion": 2})), Err(InvalidManifest::Neither)));
    }

    #[test]
    fn our_platform_is_chosen_or_the_others_are_named() {
        let index = |platforms: &[Option<&str>]| {
            let entries: Vec<_> = platforms.iter().map(|platform| descriptor(*platform)).collect();
            match parse(serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap() {
                Document::Index(index) => index,
                Document::Manifest(_) => unreachable!(),
            }
        };
        let ours = Platform::ours();
        let several = index(&[Some("linux/arm64"), Some("linux/amd64"), Some("unknown/unknown")]);
        assert_eq!(several.choose(&ours).unwrap().platform.as_ref(), Some(&ours));
        assert!(index(&[None]).choose(&ours).is_ok());
        let error = index(&[Some("linux/arm64"), None]).choose(&ours).unwrap_err().to_string();
        assert_eq!(error, "it holds no image for linux/amd64, only for linux/arm64");
    }
}
