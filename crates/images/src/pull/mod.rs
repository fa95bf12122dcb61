//! Pulls from other registries.
//!
//! A name is resolved once to a digest; from then on everything is asked for, verified and kept by
//! digest. The manifest comes into the store last, when all it names is there.

mod challenge;
mod remote;

use std::collections::{HashMap, HashSet};

use thiserror::Error;

use self::remote::Remote;
use crate::{
    Digest, FetchError, ImageReference, ImageStore, RegistryHost, SourceError, StoreError, Target,
    image::{Image, ImageError, MAX_NESTING, Step, step},
    layer::{Exceeded, UnpackLimits},
    source::{Wanted, fetch},
    store::{MAX_CONFIG, MAX_MANIFEST},
    task::blocking,
};

/// A login at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({:?}, …)", self.user)
    }
}

/// What the operator says about other registries.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    pub logins: HashMap<RegistryHost, Login>,
    /// Spoken to without TLS. Loopback addresses always are.
    pub insecure: HashSet<RegistryHost>,
    pub limits: UnpackLimits,
}

/// Why an image was not pulled. Verified blobs stay for the next try; collection removes them.
#[derive(Debug, Error)]
pub enum PullError {
    #[error("cannot set up an HTTP client for registries")]
    Client { source: reqwest::Error },
    #[error("{reference} names no registry; write its host before it, such as docker.io/{reference}")]
    NoRegistry { reference: String },
    #[error("cannot pull {reference}")]
    Source { reference: String, source: SourceError },
    #[error("cannot pull {reference}")]
    Fetch { reference: String, source: Box<FetchError> },
    #[error("cannot use {reference}")]
    Image { reference: String, source: Box<ImageError> },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PullError {
    /// Whether another try may bring what this one did not.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source { source, .. } => source.is_transient(),
            Self::Fetch { source, .. } => matches!(**source, FetchError::Broken { .. }),
            _ => false,
        }
    }
}

/// Pulls images; one for the whole process, because it keeps connections.
pub struct Puller {
    secure: reqwest::Client,
    plain: reqwest::Client,
    options: PullOptions,
}

impl Puller {
    /// Needs the process's default TLS provider to be installed.
    pub fn new(options: PullOptions) -> Result<Self, PullError> {
        let client = |https_only| remote::client(https_only).map_err(|source| PullError::Client { source });
        Ok(Self { secure: client(true)?, plain: client(false)?, options })
    }

    /// The same connections under other options.
    pub fn with_options(&self, options: PullOptions) -> Self {
        Self { secure: self.secure.clone(), plain: self.plain.clone(), options }
    }

    /// The digest that a name means now: of the manifest or index, as the registry has it.
    pub async fn resolve(&self, reference: &ImageReference) -> Result<Digest, PullError> {
        let remote = self.remote(reference)?;
        let manifest = remote.manifest(&reference.target()).await;
        let bytes = manifest.map_err(|source| PullError::Source { reference: reference.to_string(), source })?;
        Ok(Digest::of(&bytes))
    }

    /// Brings an image for our platform into the store. What is there already is not fetched again.
    pub async fn pull(&self, store: &ImageStore, reference: &ImageReference) -> Result<Image, PullError> {
        let unusable =
            |source: ImageError| PullError::Image { reference: reference.to_string(), source: source.into() };
        let unfetched =
            |source: FetchError| PullError::Fetch { reference: reference.to_string(), source: source.into() };
        let remote = self.remote(reference)?;

        let mut target = reference.target();
        for _ in 0..MAX_NESTING {
            let manifest = remote.manifest(&target).await;
            let bytes = manifest.map_err(|source| PullError::Source { reference: reference.to_string(), source })?;
            let digest = Digest::of(&bytes);
            let manifest = match step(digest, &bytes).map_err(unusable)? {
                Step::Next(descriptor) => {
                    target = Target::Digest(descriptor.digest);
                    continue;
                }
                Step::Found(manifest) => manifest,
            };
            let limits = &self.options.limits;
            let packed = manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
            if packed > limits.bytes || manifest.config.size > MAX_CONFIG {
                return Err(unusable(Exceeded::Bytes { limit: limits.bytes }.into()));
            }
            fetch(store, &remote, &Wanted::described(&manifest.config)).await.map_err(unfetched)?;
            let (own, config) = (store.clone(), manifest.config.digest);
            let config = blocking(move || own.read_blob(&config, MAX_CONFIG)).await?;
            let image = Image::assemble(digest, manifest, &config, limits).map_err(unusable)?;
            for layer in &image.manifest.layers {
                fetch(store, &remote, &Wanted::described(layer)).await.map_err(unfetched)?;
            }
            let own = store.clone();
            blocking(move || own.put(&bytes)).await?;
            return Ok(image);
        }
        Err(match target {
            Target::Digest(digest) => unusable(ImageError::Nesting { digest }),
            Target::Tag(_) => StoreError::TooLarge { limit: MAX_MANIFEST }.into(),
        })
    }

    fn remote<'a>(&'a self, reference: &'a ImageReference) -> Result<Remote<'a>, PullError> {
        let host = reference.registry.as_ref();
        let host = host.ok_or_else(|| PullError::NoRegistry { reference: reference.to_string() })?;
        let plain = host.is_loopback() || self.options.insecure.contains(host);
        let client = if plain { &self.plain } else { &self.secure };
        Ok(Remote::new(client, plain, host, &reference.repository, self.options.logins.get(host)))
    }
}
