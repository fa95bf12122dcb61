//! A whole image in the store: its manifest, its configuration, and what a machine needs of them.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};
use thiserror::Error;

use crate::{
    Digest, ImageStore, StoreError,
    layer::{Exceeded, UnpackLimits},
    manifest::{Descriptor, Document, InvalidManifest, Manifest, Platform, null_as_default},
    store::{MAX_CONFIG, MAX_MANIFEST},
};

/// How deep indexes may hold indexes.
pub(crate) const MAX_NESTING: usize = 4;

/// What an image says about running it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// Name and value, in the image's order.
    pub env: Vec<(String, String)>,
    /// Empty: the root folder.
    pub working_dir: String,
    /// `user[:group]`, by name or number; empty: root.
    pub user: String,
    pub exposed_ports: Vec<ExposedPort>,
    pub stop_signal: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Packed bytes of configuration and layers.
    pub total_size: u64,
}

/// A port that an image says it listens on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ExposedPort {
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// One image for our platform.
#[derive(Clone, PartialEq, Debug)]
pub struct Image {
    /// Of the manifest itself, also when an index was asked for.
    pub digest: Digest,
    pub manifest: Manifest,
    /// The unpacked layers' digests, lowest first; as many as the manifest has layers.
    pub diff_ids: Vec<Digest>,
    pub config: ImageConfig,
}

/// Why an image cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    #[error("the manifest {digest} cannot be used")]
    Manifest { digest: Digest, source: InvalidManifest },
    #[error("the manifest {digest} is an index of indexes of indexes; at most {MAX_NESTING} levels are followed")]
    Nesting { digest: Digest },
    #[error("the configuration {digest} is no image configuration")]
    Config { digest: Digest, source: serde_json::Error },
    #[error("the image is made for {found}; machines here are {wanted}")]
    Platform { found: Platform, wanted: Platform },
    #[error("the manifest has {layers} layers and the configuration {digest} lists {diff_ids}")]
    LayerCount { digest: Digest, layers: usize, diff_ids: usize },
    #[error("the image is refused: {0}")]
    Exceeded(#[from] Exceeded),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Deserialize)]
struct RawImage {
    #[serde(default, deserialize_with = "null_as_default")]
    os: String,
    #[serde(default, deserialize_with = "null_as_default")]
    architecture: String,
    #[serde(default, deserialize_with = "null_as_default")]
    config: RawConfig,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "null_as_default")]
    diff_ids: Vec<Digest>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    #[serde(deserialize_with = "null_as_default")]
    user: String,
    #[serde(deserialize_with = "null_as_default")]
    exposed_ports: BTreeMap<String, IgnoredAny>,
    #[serde(deserialize_with = "null_as_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_as_default")]
    labels: BTreeMap<String, String>,
    stop_signal: Option<String>,
}

/// Reads a configuration on its own: what it says, and the unpacked layers' digests.
pub(crate) fn parse_config(digest: Digest, bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>), ImageError> {
    let raw: RawImage = serde_json::from_slice(bytes).map_err(|source| ImageError::Config { digest, source })?;
    let wanted = Platform::ours();
    let found = Platform { os: raw.os, architecture: raw.architecture };
    // Old builders leave both out.
    let fits = |found: &str, wanted: &str| found.is_empty() || found == wanted;
    if !fits(&found.os, &wanted.os) || !fits(&found.architecture, &wanted.architecture) {
        return Err(ImageError::Platform { found, wanted });
    }
    let config = raw.config;
    let env = config.env.into_iter().map(|variable| match variable.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (variable, String::new()),
    });
    let summary = ImageConfig {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: env.collect(),
        working_dir: config.working_dir,
        user: config.user,
        // A port range or a slip of the pen only documents; it stops nobody from running the image.
        exposed_ports: config.exposed_ports.keys().filter_map(|text| exposed_port(text)).collect(),
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        labels: config.labels,
        total_size: 0,
    };
    Ok((summary, raw.rootfs.diff_ids))
}

fn exposed_port(text: &str) -> Option<ExposedPort> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    matches!(protocol.as_str(), "tcp" | "udp").then_some(())?;
    Some(ExposedPort { port: port.parse().ok()?, protocol })
}

impl Image {
    /// Reads the image `digest`, a manifest or an index, from the store.
    pub fn read(store: &ImageStore, digest: Digest, limits: &UnpackLimits) -> Result<Self, ImageError> {
        let read = |digest: &Digest| store.read_blob(digest, MAX_MANIFEST).map_err(ImageError::from);
        let (digest, manifest) = Self::manifest_for_us(digest, read)?;
        let config = store.read_blob(&manifest.config.digest, MAX_CONFIG)?;
        Self::assemble(digest, manifest, &config, limits)
    }

    /// Follows indexes from `digest` to the manifest for our platform, asking `read` for each.
    pub(crate) fn manifest_for_us<E>(
        mut digest: Digest,
        mut read: impl FnMut(&Digest) -> Result<bytes::Bytes, E>,
    ) -> Result<(Digest, Manifest), E>
    where
        E: From<ImageError>,
    {
        for _ in 0..MAX_NESTING {
            match step(digest, &read(&digest)?)? {
                Step::Found(manifest) => return Ok((digest, manifest)),
                Step::Next(descriptor) => digest = descriptor.digest,
            }
        }
        Err(ImageError::Nesting { digest }.into())
    }

    /// Puts an image together from its verified parts.
    pub(crate) fn assemble(
        digest: Digest,
        manifest: Manifest,
        config_bytes: &[u8],
        limits: &UnpackLimits,
    ) -> Result<Self, ImageError> {
        let (mut config, diff_ids) = parse_config(manifest.config.digest, config_bytes)?;
        let layers = manifest.layers.len();
        if layers != diff_ids.len() {
            let digest = manifest.config.digest;
            return Err(ImageError::LayerCount { digest, layers, diff_ids: diff_ids.len() });
        }
        if layers > limits.layers {
            return Err(Exceeded::Layers { found: layers, limit: limits.layers }.into());
        }
        let sizes = manifest.layers.iter().map(|layer| layer.size);
        config.total_size = sizes.fold(manifest.config.size, u64::saturating_add);
        Ok(Self { digest, manifest, diff_ids, config })
    }

    /// The packed layers and their unpacked digests, lowest first.
    pub fn layers(&self) -> impl Iterator<Item = (&Descriptor, Digest)> {
        self.manifest.layers.iter().zip(self.diff_ids.iter().copied())
    }
}

/// Where one document leads on the way to our manifest.
pub(crate) enum Step {
    Found(Manifest),
    Next(Descriptor),
}

pub(crate) fn step(digest: Digest, bytes: &[u8]) -> Result<Step, ImageError> {
    let invalid = |source| ImageError::Manifest { digest, source };
    match Document::parse(bytes).map_err(invalid)? {
        Document::Manifest(manifest) => Ok(Step::Found(manifest)),
        Document::Index(index) => Ok(Step::Next(index.choose(&Platform::ours()).map_err(invalid)?.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(ImageConfig, Vec<Digest>), ImageError> {
        parse_config(Digest::of(text.as_bytes()), text.as_bytes())
    }

    #[test]
    fn a_configuration_is_summed_up_for_the_worker() {
        let diff_id = Digest::of(b"layer");
        let (config, diff_ids) = parse(&format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}},
               "config":{{"User":"www","Env":["A=b=c","EMPTY"],"Entrypoint":["/run"],"Cmd":null,"WorkingDir":"/srv",
               "ExposedPorts":{{"8080/tcp":{{}},"53/UDP":{{}},"80-90/tcp":{{}},"9":null}},"StopSignal":"SIGQUIT",
               "Labels":{{"a":"b"}},"Unknown":1}}}}"#
        ))
        .unwrap();
        assert_eq!(diff_ids, [diff_id]);
        assert_eq!(config.env, [("A".into(), "b=c".into()), ("EMPTY".into(), String::new())]);
        assert_eq!((&config.entrypoint[..], &config.cmd[..]), (&["/run".to_owned()][..], &[][..]));
        let ports: Vec<_> =
            config.exposed_ports.iter().map(|port| format!("{}/{}", port.port, port.protocol)).collect();
        assert_eq!(ports, ["53/udp", "8080/tcp", "9/tcp"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("www", "/srv"));
    }

    #[test]
    fn an_image_of_another_platform_is_refused_by_name() {
        let error = parse(r#"{"os":"linux","architecture":"arm64","rootfs":{"diff_ids":[]}}"#).unwrap_err();
        assert_eq!(error.to_string(), "the image is made for linux/arm64; machines here are linux/amd64");
        assert!(parse(r#"{"rootfs":{"diff_ids":null},"config":null}"#).is_ok());
        assert!(matches!(parse("[]"), Err(ImageError::Config { .. })));
    }
}
