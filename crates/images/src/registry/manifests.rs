//! Manifests: by tag or digest. One is taken only when all it names is there.

use std::collections::BTreeSet;

use axum::{
    body::{Body, to_bytes},
    response::Response,
};
use http::{StatusCode, header};

use super::{Asked, CONTENT_DIGEST, Registry, empty, error::ApiError, respond};
use crate::{
    Digest, Repository, StoreError, Target,
    manifest::{Document, media_type_of},
    store::MAX_MANIFEST,
    task::blocking,
};

impl Registry {
    /// The digest that `target` means in `repository`.
    fn resolve(&self, repository: &Repository, target: &Target) -> Result<Digest, ApiError> {
        let found = match target {
            Target::Tag(tag) => self.store.resolve_tag(repository, tag),
            Target::Digest(digest) => self.store.has_manifest(repository, digest).then_some(*digest),
        };
        found.ok_or_else(ApiError::manifest_unknown)
    }

    pub(super) async fn get_manifest(
        &self,
        repository: &Repository,
        target: &Target,
        asked: &Asked,
    ) -> Result<Response, ApiError> {
        let digest = self.resolve(repository, target)?;
        let store = self.store.clone();
        let bytes = match blocking(move || store.read_blob(&digest, MAX_MANIFEST)).await {
            Err(StoreError::Missing { .. }) => return Err(ApiError::manifest_unknown()),
            other => other?,
        };
        let media_type = media_type_of(&bytes).map_err(|error| ApiError::manifest_invalid(error.to_string()))?;
        let headers = [
            (header::CONTENT_TYPE, media_type),
            (header::CONTENT_LENGTH, bytes.len().to_string()),
            (header::ETAG, format!("\"{digest}\"")),
            (CONTENT_DIGEST, digest.to_string()),
        ];
        if asked.is_head { empty(StatusCode::OK, &headers) } else { respond(StatusCode::OK, &headers, bytes.into()) }
    }

    pub(super) async fn put_manifest(
        &self,
        repository: Repository,
        target: Target,
        asked: &Asked,
        body: Body,
    ) -> Result<Response, ApiError> {
        // Of the two ways to fail, a client that breaks off does not read the answer.
        let read = to_bytes(body, MAX_MANIFEST as usize).await;
        let bytes = read.map_err(|_| ApiError::manifest_too_large(MAX_MANIFEST))?;
        let invalid = |reason: String| ApiError::manifest_invalid(reason);
        let document = Document::parse(&bytes).map_err(|error| invalid(describe(&error)))?;
        let stored_type = media_type_of(&bytes).map_err(|error| invalid(describe(&error)))?;
        let said = asked.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if let Some(said) = said.filter(|said| said.split(';').next().map(str::trim) != Some(stored_type.as_str())) {
            return Err(invalid(format!("the request says it is {said}, the manifest itself {stored_type}")));
        }
        let digest = Digest::of(&bytes);
        if let Target::Digest(expected) = target
            && expected != digest
        {
            return Err(StoreError::WrongDigest { expected, found: digest }.into());
        }
        self.check_references(&repository, &document).await?;
        let (store, own_repository, own_target) = (self.store.clone(), repository.clone(), target.clone());
        blocking(move || {
            store.put(&bytes)?;
            match &own_target {
                Target::Tag(tag) => store.set_tag(&own_repository, tag, digest),
                Target::Digest(_) => store.add_manifest(&own_repository, digest),
            }
        })
        .await?;
        let location = format!("/v2/{repository}/manifests/{target}");
        empty(StatusCode::CREATED, &[(header::LOCATION, location), (CONTENT_DIGEST, digest.to_string())])
    }

    async fn check_references(&self, repository: &Repository, document: &Document) -> Result<(), ApiError> {
        for reference in document.references() {
            let digest = reference.digest;
            let size = match document {
                Document::Index(_) if !self.store.has_manifest(repository, &digest) => None,
                Document::Index(_) => self.store.size_of(&digest)?,
                Document::Manifest(_) => self.blob_of(repository, digest).await?,
            };
            let Some(size) = size else {
                return Err(ApiError::manifest_blob_unknown(format!("upload {digest} to {repository} first")));
            };
            if size != reference.size {
                let message = format!("{digest} has {size} bytes, the manifest says {}", reference.size);
                return Err(ApiError::manifest_invalid(message));
            }
        }
        Ok(())
    }

    pub(super) async fn delete_manifest(&self, repository: Repository, target: Target) -> Result<Response, ApiError> {
        self.resolve(&repository, &target)?;
        let store = self.store.clone();
        blocking(move || match &target {
            Target::Tag(tag) => store.remove_tag(&repository, tag).map(|_| ()),
            Target::Digest(digest) => store.remove_manifests(&repository, &BTreeSet::from([*digest])).map(|_| ()),
        })
        .await?;
        empty(StatusCode::ACCEPTED, &[])
    }
}

/// An error with its causes, for an answer that has one line.
fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", describe(source)),
        None => error.to_string(),
    }
}
