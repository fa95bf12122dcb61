//! From a digest to folders that can be mounted: fetch what is missing, unpack what is not.

use std::path::PathBuf;

use futures_util::{StreamExt, TryStreamExt, stream};
use thiserror::Error;

use crate::{
    Digest, ImageConfig, ImageStore, LayerError, StoreError,
    image::{self, Image, ImageError, MAX_NESTING, Step},
    layer::{Exceeded, UnpackLimits, unpack::hides_all_below},
    source::{BlobSource, FetchError, Wanted, fetch},
    store::{MAX_CONFIG, MAX_MANIFEST},
    task::blocking,
};

/// Layers fetched at the same time.
const PARALLEL_FETCHES: usize = 4;

/// An image ready to be mounted.
#[derive(Clone, PartialEq, Debug)]
pub struct UnpackedImage {
    /// Of the manifest for our platform, also when an index was asked for.
    pub digest: Digest,
    /// Lowest first. Layers that a higher one hides as a whole are left out.
    pub layers: Vec<PathBuf>,
    pub config: ImageConfig,
}

/// Why an image is not ready. What was fetched and verified stays for the next try.
#[derive(Debug, Error)]
pub enum EnsureError {
    #[error("cannot fetch the image {image}")]
    Fetch { image: Digest, source: FetchError },
    #[error("the image {image} cannot be used")]
    Image { image: Digest, source: ImageError },
    #[error("cannot unpack layer {layer} of the image {image}")]
    Layer { image: Digest, layer: Digest, source: LayerError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the image `digest`, a manifest or an index, ready. Whoever calls pins the digest first, so
/// that collection leaves it alone. What is there already is not asked of `source`: a whole image
/// needs none. Calls at the same time share their work.
pub async fn ensure_image(
    store: &ImageStore,
    source: &dyn BlobSource,
    digest: Digest,
    limits: &UnpackLimits,
) -> Result<UnpackedImage, EnsureError> {
    let image = fetch_image(store, source, digest, limits).await?;
    let missing: Vec<_> = missing_layers(store, &image).await?;
    stream::iter(missing)
        .map(|wanted| async move { fetch(store, source, &wanted).await })
        .buffer_unordered(PARALLEL_FETCHES)
        .try_collect::<Vec<()>>()
        .await
        .map_err(|source| EnsureError::Fetch { image: digest, source })?;
    let layers = unpack_layers(store, &image, limits).await?;
    Ok(UnpackedImage { digest: image.digest, layers, config: image.config })
}

/// Fetches the manifest for our platform and its configuration; no layers.
pub(crate) async fn fetch_image(
    store: &ImageStore,
    source: &dyn BlobSource,
    digest: Digest,
    limits: &UnpackLimits,
) -> Result<Image, EnsureError> {
    let unusable = |source| EnsureError::Image { image: digest, source };
    let unfetched = |source| EnsureError::Fetch { image: digest, source };
    let read = |digest: Digest, limit| {
        let store = store.clone();
        blocking(move || store.read_blob(&digest, limit))
    };
    let mut document = Wanted { digest, size: None, limit: MAX_MANIFEST };
    for _ in 0..MAX_NESTING {
        fetch(store, source, &document).await.map_err(unfetched)?;
        match image::step(document.digest, &read(document.digest, MAX_MANIFEST).await?).map_err(unusable)? {
            Step::Next(descriptor) if descriptor.size > MAX_MANIFEST => {
                return Err(StoreError::TooLarge { limit: MAX_MANIFEST }.into());
            }
            Step::Next(descriptor) => document = Wanted::described(&descriptor),
            Step::Found(manifest) => {
                if manifest.config.size > MAX_CONFIG {
                    return Err(StoreError::TooLarge { limit: MAX_CONFIG }.into());
                }
                fetch(store, source, &Wanted::described(&manifest.config)).await.map_err(unfetched)?;
                let config = read(manifest.config.digest, MAX_CONFIG).await?;
                return Image::assemble(document.digest, manifest, &config, limits).map_err(unusable);
            }
        }
    }
    Err(unusable(ImageError::Nesting { digest: document.digest }))
}

async fn missing_layers(store: &ImageStore, image: &Image) -> Result<Vec<Wanted>, StoreError> {
    let layers: Vec<_> = image.layers().map(|(layer, diff_id)| (Wanted::described(layer), diff_id)).collect();
    let store = store.clone();
    blocking(move || {
        let mut missing = Vec::new();
        for (wanted, diff_id) in layers {
            if store.unpacked_layer(&diff_id)?.is_none() {
                missing.push(wanted);
            }
        }
        Ok(missing)
    })
    .await
}

/// Unpacks one layer after the other: each may cost what those below it left of the limits.
async fn unpack_layers(store: &ImageStore, image: &Image, limits: &UnpackLimits) -> Result<Vec<PathBuf>, EnsureError> {
    let mut left = limits.clone();
    let mut layers = Vec::new();
    for (layer, diff_id) in image.layers() {
        let failed = |source| EnsureError::Layer { image: image.digest, layer: layer.digest, source };
        // The turn goes along into the work, which outlives a caller that is dropped.
        let turn = store.unpacking().turn(diff_id).await?;
        let (own, digest, own_limits) = (store.clone(), layer.digest, left.clone());
        let unpack = move || {
            let _turn = turn;
            let (folder, summary) = own.unpack_layer(&digest, &diff_id, &own_limits)?;
            let hides = hides_all_below(&folder)?;
            Ok::<_, LayerError>((folder, summary, hides))
        };
        let (folder, summary, hides) = blocking(unpack).await.map_err(failed)?;
        // A layer that was unpacked before, for another image, counts all the same.
        let exceeded = |limit: Exceeded| failed(limit.into());
        left.bytes = left.bytes.checked_sub(summary.bytes).ok_or(exceeded(Exceeded::Bytes { limit: limits.bytes }))?;
        left.entries =
            left.entries.checked_sub(summary.entries).ok_or(exceeded(Exceeded::Entries { limit: limits.entries }))?;
        if hides {
            layers.clear();
        }
        // An overlay mount takes a folder once. What the lower one of two equal layers brings, the
        // higher one brings again.
        layers.retain(|lower| *lower != folder);
        layers.push(folder);
    }
    Ok(layers)
}
