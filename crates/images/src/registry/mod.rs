//! Our registry: the OCI distribution API (`/v2/`) over the image store.
//!
//! Who may do what is somebody else's decision ([`Authorizer`]). Blobs are shared by all
//! repositories on disk, but a repository gives only what its own manifests name or what was
//! uploaded to it a moment ago: a digest alone opens nothing.

mod auth;
mod blobs;
mod error;
mod listing;
mod manifests;
mod range;
mod route;
mod uploads;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

pub use self::auth::{Action, Authorizer, Credential, Verdict};
use self::{
    error::ApiError,
    route::{Call, Route},
    uploads::Uploads,
};
use crate::{Digest, ImageStore, Repository, StoreError, manifest::Document, store::MAX_MANIFEST, task::blocking};

/// Bounds of the registry.
#[derive(Clone, Debug)]
pub struct RegistryLimits {
    /// Bytes of one blob.
    pub blob: u64,
    /// Uploads under way at the same time.
    pub uploads: usize,
    /// An upload that nobody touched for so long is dropped; so long, too, a finished blob may wait
    /// for the manifest that names it.
    pub upload_expiry: Duration,
}

impl Default for RegistryLimits {
    fn default() -> Self {
        Self { blob: 8 << 30, uploads: 256, upload_expiry: Duration::from_secs(3600) }
    }
}

/// The registry as routes below `/v2/`, with the default limits. To be merged, not nested: clients
/// find it at the root of its host only.
pub fn router(store: ImageStore, authorizer: Arc<dyn Authorizer>) -> Router {
    router_with(store, authorizer, RegistryLimits::default())
}

/// The registry as routes below `/v2/`.
pub fn router_with(store: ImageStore, authorizer: Arc<dyn Authorizer>, limits: RegistryLimits) -> Router {
    let uploads = Uploads::new(limits.uploads, limits.upload_expiry);
    let registry = Arc::new(Registry { store, authorizer, uploads, limits });
    // Repositories hold slashes, so the paths are taken apart by ourselves.
    Router::new()
        .route("/v2", axum::routing::any(serve))
        .route("/v2/", axum::routing::any(serve))
        .route("/v2/{*path}", axum::routing::any(serve))
        .with_state(registry)
}

struct Registry {
    store: ImageStore,
    authorizer: Arc<dyn Authorizer>,
    uploads: Uploads,
    limits: RegistryLimits,
}

/// What handlers look at besides the body.
struct Asked {
    headers: HeaderMap,
    query: route::Query,
    credential: Option<Credential>,
    /// Answer without a body.
    is_head: bool,
}

async fn serve(State(registry): State<Arc<Registry>>, request: Request) -> Response {
    let mut response = match registry.answer(request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert("docker-distribution-api-version", version);
    response
}

impl Registry {
    async fn answer(self: &Arc<Self>, request: Request) -> Result<Response, ApiError> {
        let (parts, body) = request.into_parts();
        let Route { call, repository } = Route::parse(&parts.method, parts.uri.path())?;
        let asked = Asked {
            credential: Credential::from_headers(&parts.headers),
            query: route::Query::parse(parts.uri.query().unwrap_or_default()),
            is_head: parts.method == http::Method::HEAD,
            headers: parts.headers,
        };
        self.authorize(call.action(), repository.as_ref(), asked.credential.as_ref()).await?;
        let Some(repository) = repository else {
            return match call {
                Call::Catalog => Ok(self.catalog(&asked)),
                _ => Ok(json(StatusCode::OK, "{}".to_owned())),
            };
        };
        match call {
            Call::Ping | Call::Catalog => Ok(json(StatusCode::OK, "{}".to_owned())),
            Call::Tags => self.tags(&repository, &asked),
            Call::GetManifest(target) => self.get_manifest(&repository, &target, &asked).await,
            Call::PutManifest(target) => self.put_manifest(repository, target, &asked, body).await,
            Call::DeleteManifest(target) => self.delete_manifest(repository, target).await,
            Call::GetBlob(digest) => self.get_blob(&repository, digest, &asked).await,
            Call::StartUpload => self.start_upload(repository, &asked, body).await,
            Call::AppendUpload(id) => self.append_upload(&repository, &id, &asked, body).await,
            Call::FinishUpload(id) => self.finish_upload(&repository, &id, &asked, body).await,
            Call::UploadStatus(id) => self.upload_status(&repository, &id),
            Call::CancelUpload(id) => self.cancel_upload(&repository, &id),
        }
    }

    async fn authorize(
        &self,
        action: Action,
        repository: Option<&Repository>,
        credential: Option<&Credential>,
    ) -> Result<(), ApiError> {
        match self.authorizer.authorize(action, repository, credential).await {
            Verdict::Allow => Ok(()),
            Verdict::Deny => Err(ApiError::denied()),
            Verdict::Unauthenticated => Err(ApiError::unauthenticated()),
        }
    }

    /// Whether `repository` may give the blob away, and its size; makes it young.
    async fn blob_of(&self, repository: &Repository, digest: Digest) -> Result<Option<u64>, StoreError> {
        let recently_uploaded = self.uploads.was_recent(repository, &digest);
        let (store, repository) = (self.store.clone(), repository.clone());
        blocking(move || {
            if recently_uploaded || is_referenced(&store, &repository, &digest)? {
                store.confirm(&digest)
            } else {
                Ok(None)
            }
        })
        .await
    }
}

/// Whether a manifest of the repository names the blob.
fn is_referenced(store: &ImageStore, repository: &Repository, digest: &Digest) -> Result<bool, StoreError> {
    let Some(record) = store.names().get(repository) else { return Ok(false) };
    for manifest in &record.manifests {
        match store.read_blob(manifest, MAX_MANIFEST) {
            // What is stored was parsed when it came; a tag that an import set on anything else
            // gives nothing away.
            Ok(bytes) => {
                if Document::parse(&bytes).is_ok_and(|document| document.names(digest)) {
                    return Ok(true);
                }
            }
            Err(StoreError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// An answer without a body.
fn empty(status: StatusCode, headers: &[(header::HeaderName, String)]) -> Result<Response, ApiError> {
    respond(status, headers, Body::empty())
}

fn respond(status: StatusCode, headers: &[(header::HeaderName, String)], body: Body) -> Result<Response, ApiError> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        // Digests, repositories, media types and numbers: printable, but a stored media type is
        // foreign text.
        let value =
            HeaderValue::from_str(value).map_err(|_| ApiError::manifest_invalid("its media type is unprintable"))?;
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

const CONTENT_DIGEST: header::HeaderName = header::HeaderName::from_static("docker-content-digest");
const UPLOAD_ID: header::HeaderName = header::HeaderName::from_static("docker-upload-uuid");
