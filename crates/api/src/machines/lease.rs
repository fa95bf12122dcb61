//! Leases: while one lives, only its holder changes the machine. The answers have an envelope, and
//! refusals carry their text twice, as clients look in both places.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use atoll_control::{ControlError, Kind};
use atoll_identity::Action;
use atoll_rpc::proto::worker::LeaseRequest;
use atoll_rpc::proto::worker::lease_request::Action as LeaseAction;

use super::{nonce, view};
use crate::Api;
use crate::auth::{Auth, machine_id};
use crate::body::Body;
use crate::error::{ApiError, ApiResult};

type At = Path<(String, String)>;

/// Seconds, when the caller names none.
const DEFAULT_TTL: u64 = 30;

/// A refused lease: `{"status":"error","message":text,"code":"invalid","error":text}`.
fn refused(error: ControlError) -> ApiResult<Response> {
    if error.kind != Kind::Conflict {
        return Err(ApiError(error));
    }
    let body = json!({"status": "error", "message": error.message, "code": "invalid", "error": error.message});
    Ok((StatusCode::CONFLICT, Json(body)).into_response())
}

pub async fn get(State(api): State<Api>, auth: Auth, Path((app, id)): At) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let lease =
        api.control.machine_lease(&app.name, machine_id(&id)?, LeaseAction::Get, LeaseRequest::default()).await?;
    lease.map(|lease| Json(view::lease(&lease))).ok_or_else(|| ApiError::not_found("lease not found"))
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct AcquireBody {
    description: Option<String>,
    ttl: Option<u64>,
}

#[derive(Deserialize)]
pub struct AcquireQuery {
    ttl: Option<u64>,
}

pub async fn acquire(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): At,
    Query(query): Query<AcquireQuery>,
    headers: HeaderMap,
    Body(body): Body<AcquireBody>,
) -> ApiResult<Response> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let lease = LeaseRequest {
        nonce: nonce(&headers),
        ttl_seconds: query.ttl.or(body.ttl).filter(|ttl| *ttl > 0).unwrap_or(DEFAULT_TTL),
        owner: auth.name(),
        description: body.description.unwrap_or_default(),
        ..LeaseRequest::default()
    };
    match api.control.machine_lease(&app.name, machine_id(&id)?, LeaseAction::Acquire, lease).await {
        Ok(Some(lease)) => Ok((StatusCode::CREATED, Json(view::lease(&lease))).into_response()),
        Ok(None) => Err(ApiError::not_found("lease not found")),
        Err(error) => refused(error),
    }
}

pub async fn release(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): At,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let nonce = nonce(&headers);
    if nonce.is_empty() {
        return Err(ApiError::invalid("the header fly-machine-lease-nonce is required"));
    }
    let lease = LeaseRequest { nonce, ..LeaseRequest::default() };
    match api.control.machine_lease(&app.name, machine_id(&id)?, LeaseAction::Release, lease).await {
        Ok(_) => Ok(Json(json!({"status": "success", "data": {"ok": true}})).into_response()),
        Err(error) => refused(error),
    }
}
