//! Request bodies as foreign clients send them: JSON whatever the content type says, and nothing at
//! all where everything is optional.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// A JSON body; an empty one is `T`'s default.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| ApiError::invalid(format!("the body cannot be read: {}", error.body_text())))?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(T::default()));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            ApiError::invalid(format!("invalid_argument: the body is not what this route takes: {error}"))
        })
    }
}

/// `true`, `1`, `t` and, as some clients send it, an empty value.
pub fn flag(value: Option<&str>) -> bool {
    matches!(value, Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True"))
}
