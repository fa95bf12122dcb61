//! Errors as the distribution specification words them.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use super::json;
use crate::StoreError;

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// One more header, such as the range that an upload has reached.
    header: Option<(header::HeaderName, String)>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), header: None }
    }

    pub(super) fn unauthenticated() -> Self {
        let message = "log in first: any user, a platform token as the password";
        let challenge = (header::WWW_AUTHENTICATE, "Basic realm=\"Atoll\", charset=\"UTF-8\"".to_owned());
        Self { header: Some(challenge), ..Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message) }
    }

    pub(super) fn denied() -> Self {
        Self::new(StatusCode::FORBIDDEN, "DENIED", "requested access to the resource is denied")
    }

    pub(super) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "this is no address of the registry")
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the registry does not support this here")
    }

    pub(super) fn name_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", message)
    }

    pub(super) fn name_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "there is no such repository")
    }

    pub(super) fn digest_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub(super) fn blob_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "the repository has no such blob")
    }

    pub(super) fn manifest_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "the repository has no such manifest")
    }

    pub(super) fn manifest_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
    }

    pub(super) fn manifest_blob_unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", message)
    }

    pub(super) fn manifest_too_large(limit: u64) -> Self {
        let message = format!("a manifest has at most {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID", message)
    }

    pub(super) fn upload_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "there is no such upload; it may have expired")
    }

    pub(super) fn upload_busy() -> Self {
        Self::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", "another request writes to this upload")
    }

    pub(super) fn upload_broken(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message)
    }

    /// A chunk that does not begin where the upload ends.
    pub(super) fn upload_range(range: String) -> Self {
        let message = "the chunk does not begin where the upload ends";
        Self {
            header: Some((header::RANGE, range)),
            ..Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message)
        }
    }

    /// A range outside a blob of `size` bytes.
    pub(super) fn range(size: u64) -> Self {
        Self {
            header: Some((header::CONTENT_RANGE, format!("bytes */{size}"))),
            ..Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", "the range lies outside the blob")
        }
    }

    pub(super) fn too_many_uploads() -> Self {
        Self {
            header: Some((header::RETRY_AFTER, "10".to_owned())),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "too many uploads are under way")
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::WrongDigest { .. } => Self::digest_invalid(error.to_string()),
            StoreError::WrongSize { .. } => Self::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", error.to_string()),
            StoreError::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", error.to_string()),
            StoreError::Missing { .. } => Self::blob_unknown(),
            // Paths of ours are nobody's business; whoever runs the server finds them in its log.
            StoreError::Full { .. } => {
                tracing::error!(error = &error as &dyn std::error::Error, "the registry's disk is full");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "UNKNOWN", "no space left for images on the server")
            }
            StoreError::InUse { .. } | StoreError::Io { .. } | StoreError::Index { .. } | StoreError::Stopping => {
                tracing::error!(error = &error as &dyn std::error::Error, "the registry cannot use its store");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the image store failed; see the server's log")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({"errors": [{"code": self.code, "message": self.message}]});
        let mut response = json(self.status, body.to_string());
        if let Some((name, value)) =
            self.header.and_then(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?)))
        {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
