//! Errors as the API's clients expect them: `{"error": text, "status"?: code}`.

use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use atoll_control::{ControlError, Kind};
use atoll_identity::{AuthError, Denied};
use atoll_model::ids::InvalidId;
use atoll_signals::with_causes;

/// Beside an answer that refuses: why, in a word.
#[derive(Clone, Copy)]
pub struct Refusal(pub &'static str);

fn refusal_of(kind: Kind) -> Refusal {
    Refusal(match kind {
        Kind::Invalid => "invalid",
        Kind::Unauthenticated => "unauthenticated",
        Kind::Forbidden => "forbidden",
        Kind::NotFound => "not_found",
        Kind::Conflict => "conflict",
        Kind::Precondition => "precondition",
        Kind::NameTaken => "name_taken",
        Kind::Capacity => "capacity",
        Kind::DiskFull => "disk_full",
        Kind::TimedOut => "timed_out",
        Kind::Unavailable => "unavailable",
        Kind::Internal => "internal",
    })
}

/// Any failure of a route.
#[derive(Debug)]
pub struct ApiError {
    error: ControlError,
    in_lease_envelope: bool,
}

pub type ApiResult<T> = Result<T, ApiError>;

impl<E: Into<ControlError>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self { error: error.into(), in_lease_envelope: false }
    }
}

impl ApiError {
    pub fn invalid(message: impl Into<String>) -> Self {
        ControlError::invalid(message).into()
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        ControlError::not_found(message).into()
    }

    /// A name in the path that cannot be one of anything.
    pub fn of_path(error: &InvalidId) -> Self {
        ControlError::not_found(error.to_string()).into()
    }

    pub fn denied(denied: &Denied) -> Self {
        ControlError::new(Kind::Forbidden, denied.to_string()).into()
    }

    pub fn unauthenticated(error: AuthError) -> Self {
        match error {
            AuthError::Unauthenticated => ControlError::new(Kind::Unauthenticated, error.to_string()).into(),
            AuthError::Unavailable { source } => source.into(),
        }
    }

    /// `{"status":"error","message":text,"code":"invalid","error":text}`: a refused lease carries its
    /// text twice, as clients look in both places.
    pub fn in_lease_envelope(self) -> Self {
        Self { in_lease_envelope: true, ..self }
    }
}

fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Precondition => StatusCode::PRECONDITION_FAILED,
        Kind::NameTaken | Kind::Capacity => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        Kind::TimedOut => StatusCode::REQUEST_TIMEOUT,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The `status` word that clients read beside the text.
fn word_of(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::NameTaken => Some("name_taken"),
        Kind::Capacity => Some("insufficient_capacity"),
        _ => None,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { error, in_lease_envelope } = self;
        if matches!(error.kind, Kind::Internal | Kind::Unavailable | Kind::DiskFull) {
            let cause = error.source.as_ref().map(|source| with_causes(source.as_ref()));
            tracing::error!(message = error.message, cause, "a request failed");
        }
        let mut body = json!({"error": error.message});
        if let Some(word) = word_of(error.kind) {
            body["status"] = word.into();
        }
        if in_lease_envelope {
            body["status"] = "error".into();
            body["code"] = "invalid".into();
            body["message"] = body["error"].clone();
        }
        let mut response = (status_of(error.kind), Json(body)).into_response();
        response.extensions_mut().insert(refusal_of(error.kind));
        response
    }
}

pub async fn no_such_route(method: Method, uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is no {method} {}", uri.path()))
}

pub async fn wrong_method(method: Method, uri: Uri) -> Response {
    let body = json!({"error": format!("{} takes no {method}", uri.path())});
    (StatusCode::METHOD_NOT_ALLOWED, Json(body)).into_response()
}
