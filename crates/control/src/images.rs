//! Images: names resolved once to a digest; uploads; collection that spares what machines need.

use std::collections::HashSet;
use std::io::Read;
use std::time::{Duration, SystemTime};

use atoll_images::task::blocking;
use atoll_images::{
    Digest, Image, ImageReference, ImportError, LayerError, NamedImage, RegistryHost, StoreError, Tag, Target,
    UnpackLimits, import_archive,
};
use atoll_model::reserved::api_host;
use atoll_signals::with_causes;
use atoll_store::MachineFilter;

use crate::{Control, ControlError, ControlResult, Kind};

/// Blobs younger than this may belong to an upload under way.
const GRACE: Duration = Duration::from_secs(3600);

/// An image as it was asked for and as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedImage {
    pub reference: String,
    pub digest: Digest,
}

impl ResolvedImage {
    /// `reference@sha256:…`, as records keep it.
    pub fn pinned(&self) -> String {
        let name = self.reference.split_once('@').map_or(self.reference.as_str(), |(name, _)| name);
        format!("{name}@{}", self.digest)
    }

    /// From what records keep.
    pub fn from_pinned(pinned: &str) -> Option<Self> {
        let (reference, digest) = pinned.rsplit_once('@')?;
        Some(Self { reference: reference.to_owned(), digest: digest.parse().ok()? })
    }
}

/// What a collection freed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Freed {
    pub blobs: u64,
    pub bytes: u64,
}

impl From<ImportError> for ControlError {
    fn from(error: ImportError) -> Self {
        match error {
            // The store's trouble is not the image's.
            ImportError::Store(error)
            | ImportError::Archive { source: LayerError::Store(error) }
            | ImportError::Layer { source: LayerError::Store(error), .. } => error.into(),
            refused => Self::invalid(format!("the image is refused: {}", with_causes(&refused))),
        }
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        Self {
            kind: if matches!(error, StoreError::Full { .. }) { Kind::DiskFull } else { Kind::Unavailable },
            message: format!("the image store failed: {error}"),
            source: Some(Box::new(error)),
        }
    }
}

impl Control {
    /// Whether a registry is this platform's, under the name by which users reach it at every edge.
    fn is_own(&self, registry: &RegistryHost) -> bool {
        registry.to_string() == api_host(&self.settings.app_domain)
    }

    /// Finds what a name stands for now. Whoever got an answer keeps it: names move, digests do not.
    pub async fn image_resolve(&self, text: &str) -> ControlResult<ResolvedImage> {
        let reference: ImageReference =
            text.parse().map_err(|error| ControlError::invalid(format!("config.image {text:?}: {error}")))?;
        if let Some(registry) = reference.registry.as_ref().filter(|registry| !self.is_own(registry)) {
            // A user's reference must not make control talk to services of its own host.
            if registry.is_loopback() {
                return Err(ControlError::invalid(format!(
                    "the image {text:?} is on {registry}, which is control itself"
                )));
            }
            let puller = self.puller.with_options(self.pull_options().await?);
            let image = puller.pull(&self.images, &reference).await.map_err(|error| {
                let kind = if error.is_transient() { Kind::Unavailable } else { Kind::Invalid };
                // What is wrong, and with which registry, is in the causes.
                ControlError { kind, message: with_causes(&error), source: Some(error.into()) }
            })?;
            return Ok(ResolvedImage { reference: text.to_owned(), digest: image.digest });
        }
        let digest = match reference.target() {
            Target::Digest(digest) => self.images.size_of(&digest)?.map(|_| digest),
            Target::Tag(tag) => self.images.resolve_tag(&reference.repository, &tag),
        };
        let digest = digest.ok_or_else(|| {
            ControlError::not_found(format!(
                "there is no image {text:?} on this platform; see `atoll image list`, or import one with `atoll image import`"
            ))
        })?;
        let store = self.images.clone();
        let image = blocking(move || Image::read(&store, digest, &UnpackLimits::default())).await;
        let image =
            image.map_err(|error| ControlError::invalid(format!("the image {text:?} cannot be used: {error}")))?;
        Ok(ResolvedImage { reference: text.to_owned(), digest: image.digest })
    }

    /// Takes in an archive and gives it a name. `name`: `<app>/<name>[:<tag>]`.
    pub async fn image_import(
        &self,
        name: &str,
        archive: impl Read + Send + 'static,
    ) -> ControlResult<(NamedImage, Image)> {
        let reference: ImageReference =
            name.parse().map_err(|error| ControlError::invalid(format!("image name {name:?}: {error}")))?;
        if reference.registry.is_some() || reference.digest.is_some() {
            return Err(ControlError::invalid(format!(
                "image name {name:?}: write <app>/<name>:<tag>, without a registry and without a digest"
            )));
        }
        let tag = reference.tag.clone().unwrap_or_else(Tag::latest);
        let store = self.images.clone();
        let (repository, wanted_tag) = (reference.repository.clone(), tag.clone());
        let image = blocking(move || -> Result<Image, ImportError> {
            let imported = import_archive(&store, archive, None, &UnpackLimits::default())?;
            store.set_tag(&repository, &wanted_tag, imported.image.digest)?;
            Ok(imported.image)
        })
        .await?;
        Ok((NamedImage { repository: reference.repository, tag, manifest: image.digest }, image))
    }

    pub async fn image_read(&self, digest: Digest) -> ControlResult<Image> {
        let store = self.images.clone();
        blocking(move || Image::read(&store, digest, &UnpackLimits::default()))
            .await
            .map_err(|error: atoll_images::ImageError| ControlError::invalid(error.to_string()))
    }

    /// Removes a name. What machines run stays until no machine needs it.
    pub async fn image_remove(&self, name: &str) -> ControlResult<()> {
        let reference: ImageReference =
            name.parse().map_err(|error| ControlError::invalid(format!("image name {name:?}: {error}")))?;
        let tag = reference.tag.unwrap_or_else(Tag::latest);
        if self.images.remove_tag(&reference.repository, &tag)? {
            Ok(())
        } else {
            Err(ControlError::not_found(format!("there is no image {name:?}")))
        }
    }

    /// Frees what no name and no machine needs.
    pub async fn image_collect(&self) -> ControlResult<Freed> {
        let machines = self.machine_records_by(MachineFilter::default()).await?;
        let mut pinned: HashSet<Digest> = HashSet::new();
        for record in &machines {
            for spec in [Some(&record.spec), record.intended.as_ref()].into_iter().flatten() {
                pinned.extend(spec.image.as_deref().and_then(ResolvedImage::from_pinned).map(|image| image.digest));
            }
        }
        for app in self.all_apps().await? {
            pinned.extend(self.release_images(&app.name).await?);
        }
        let store = self.images.clone();
        let collected = blocking(move || store.collect(&pinned, GRACE, SystemTime::now()))
            .await
            .map_err(|error: atoll_images::ImageError| ControlError::internal(error))?;
        Ok(Freed { blobs: collected.blobs, bytes: collected.blob_bytes })
    }

    /// Images of releases that may still be returned to: the newest, and the last that was complete.
    async fn release_images(&self, app: &atoll_model::AppName) -> ControlResult<Vec<Digest>> {
        let app = app.clone();
        let (newest, complete) = self
            .store
            .read(move |tx| {
                let app = app.clone();
                async move {
                    let newest = tx.release_list(&app, 2).await?;
                    Ok::<_, atoll_store::StoreError>((newest, tx.release_last_complete(&app).await?))
                }
            })
            .await?;
        let kept = newest.into_iter().chain(complete);
        Ok(kept.filter_map(|release| release.content.image_digest.parse().ok()).collect())
    }
}
