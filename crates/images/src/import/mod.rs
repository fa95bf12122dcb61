//! Importing images from files: an OCI layout folder, an archive of one, or what `docker save` wrote.
//!
//! The whole image is checked before the store gets any of it: names, digests, sizes, every layer's
//! entries and its unpacked digest. A refused import leaves nothing.

mod archive;
mod docker;
mod folder;
mod layout;

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use thiserror::Error;

pub(crate) use self::archive::MemoryFiles;
use self::{archive::StagedFiles, folder::Folder};
use crate::{
    Digest, ImageStore, LayerError, StoreError,
    image::{Image, ImageError},
    layer::{
        Exceeded, Expected, UnpackLimits,
        stream::{Discard, read_layer},
    },
    manifest::Descriptor,
    store::{MAX_MANIFEST, StagedBlob},
};

/// What an import brought.
#[derive(Clone, PartialEq, Debug)]
pub struct Imported {
    pub image: Image,
    /// The names that the archive itself gives to the image; not yet tags of ours.
    pub names: Vec<String>,
}

/// Why an image was not imported. Nothing of it is left.
#[derive(Debug, Error)]
pub enum ImportError {
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the archive cannot be read")]
    Archive { source: LayerError },
    #[error("it is no image: neither an OCI layout (oci-layout, index.json) nor a docker archive (manifest.json)")]
    NoImage,
    #[error("{file} is not what it should be")]
    Json { file: String, source: serde_json::Error },
    #[error("{file} cannot be used: {reason}")]
    File { file: String, reason: String },
    #[error("it holds several images; choose one of: {}", names.join(", "))]
    Several { names: Vec<String> },
    #[error("it holds no image {wanted:?}, only: {}", names.join(", "))]
    NotThere { wanted: String, names: Vec<String> },
    #[error("the image cannot be used")]
    Image(#[from] ImageError),
    #[error("the layer {layer} cannot be used")]
    Layer { layer: Digest, source: LayerError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Imports the image at `path`: a layout folder or an archive. `choice` names one of several images.
/// Blocks; asynchronous callers use [`crate::task::blocking`].
pub fn import_path(
    store: &ImageStore,
    path: &Path,
    choice: Option<&str>,
    limits: &UnpackLimits,
) -> Result<Imported, ImportError> {
    let open_error = |source| ImportError::Open { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(open_error)?.is_dir() {
        let folder = Folder::open(path)?;
        let plan = plan(&folder, choice, limits)?;
        carry_out(store, plan, limits, |part| folder.stage(store, part))
    } else {
        import_archive(store, File::open(path).map_err(open_error)?, choice, limits)
    }
}

/// Imports an image from an archive: tar, also packed with gzip or zstd. Blocks.
pub fn import_archive(
    store: &ImageStore,
    archive: impl Read,
    choice: Option<&str>,
    limits: &UnpackLimits,
) -> Result<Imported, ImportError> {
    let mut files = StagedFiles::new(store);
    read_layer(archive, &Expected::default(), &archive::limits(limits), &mut files)
        .map_err(|source| ImportError::Archive { source })?;
    let plan = plan(&files, choice, limits)?;
    carry_out(store, plan, limits, |part| files.take(part))
}

/// Reads an archive in memory and plans its import, as [`import_archive`] would; for fuzzing.
pub(crate) fn check_archive(archive: &[u8], limits: &UnpackLimits) -> Result<Imported, ImportError> {
    let mut files = MemoryFiles::default();
    read_layer(archive, &Expected::default(), &archive::limits(limits), &mut files)
        .map_err(|source| ImportError::Archive { source })?;
    let plan = plan(&files, None, limits)?;
    Ok(Imported { image: plan.image, names: plan.names })
}

/// The files of a layout or archive, by their path in it.
trait Files {
    /// A small file, if it is there.
    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, ImportError>;
    /// What a file of any size is, if it is there and this kind of source knows.
    fn describe(&self, path: &str) -> Option<Descriptor>;
}

/// Everything an import will do, decided before it does anything.
struct Plan {
    image: Image,
    manifest_bytes: Vec<u8>,
    config_bytes: Vec<u8>,
    /// Where each layer lies, lowest first.
    layers: Vec<Part>,
    names: Vec<String>,
}

/// One blob to bring over.
struct Part {
    path: String,
    descriptor: Descriptor,
}

fn plan(files: &dyn Files, choice: Option<&str>, limits: &UnpackLimits) -> Result<Plan, ImportError> {
    if files.read("oci-layout", MAX_MANIFEST)?.is_some() {
        layout::plan(files, choice, limits)
    } else if let Some(manifest) = files.read("manifest.json", MAX_MANIFEST)? {
        docker::plan(files, &manifest, choice, limits)
    } else {
        Err(ImportError::NoImage)
    }
}

/// Among images with names, the one that `choice` means; without a choice the only one.
fn choose<T>(images: Vec<(Vec<String>, T)>, choice: Option<&str>) -> Result<(Vec<String>, T), ImportError> {
    const SHOWN: usize = 20;
    let shown = |images: &[(Vec<String>, T)]| {
        images
            .iter()
            .map(|(names, _)| names.first().map_or("(no name)", String::as_str).to_owned())
            .take(SHOWN)
            .collect()
    };
    match choice {
        Some(wanted) => {
            let names = shown(&images);
            let is_wanted = |(names, _): &(Vec<String>, T)| names.iter().any(|name| name == wanted);
            images.into_iter().find(is_wanted).ok_or_else(|| ImportError::NotThere { wanted: wanted.to_owned(), names })
        }
        None if images.len() > 1 => Err(ImportError::Several { names: shown(&images) }),
        None => images.into_iter().next().ok_or(ImportError::NoImage),
    }
}

fn carry_out(
    store: &ImageStore,
    plan: Plan,
    limits: &UnpackLimits,
    mut stage: impl FnMut(&Part) -> Result<StagedBlob, ImportError>,
) -> Result<Imported, ImportError> {
    let mut left = limits.clone();
    let mut staged = Vec::new();
    let mut seen = HashSet::new();
    for (part, diff_id) in plan.layers.iter().zip(&plan.image.diff_ids) {
        let layer = part.descriptor.digest;
        // The layer that changes nothing comes many times in some images.
        if !seen.insert((layer, *diff_id)) {
            continue;
        }
        let failed = |source| ImportError::Layer { layer, source };
        let expected = Expected { digest: Some(layer), diff_id: Some(*diff_id) };
        let summary = if store.confirm(&layer)?.is_some() {
            let (content, _) = store.open_blob(&layer)?;
            read_layer(content, &expected, &left, &mut Discard).map_err(failed)?
        } else {
            let blob = stage(part)?;
            let summary = read_layer(blob.open()?, &expected, &left, &mut Discard).map_err(failed)?;
            staged.push(blob);
            summary
        };
        let exceeded = |limit: Exceeded| failed(limit.into());
        left.bytes = left.bytes.checked_sub(summary.bytes).ok_or(exceeded(Exceeded::Bytes { limit: limits.bytes }))?;
        left.entries =
            left.entries.checked_sub(summary.entries).ok_or(exceeded(Exceeded::Entries { limit: limits.entries }))?;
    }
    for blob in staged {
        blob.commit()?;
    }
    store.put(&plan.config_bytes)?;
    // Last: a manifest in the store has all it names.
    store.put(&plan.manifest_bytes)?;
    Ok(Imported { image: plan.image, names: plan.names })
}
