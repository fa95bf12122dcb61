//! Leases: while one lives, only its holder changes the machine. The answers have an envelope, and
//! refusals carry their text twice, as clients look in both places.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use atoll_control::Kind;
use atoll_identity::Action;
use atoll_model::machine::Lease;
use atoll_rpc::proto::worker::LeaseRequest;
use atoll_rpc::proto::worker::lease_request::Action as LeaseAction;

use crate::Api;
use crate::answer::Created;
use crate::auth::{Auth, machine_id};
use crate::body::{Nonce, OptionalBody, Params, RequiredNonce};
use crate::error::{ApiError, ApiResult};

type At = Path<(String, String)>;

/// Seconds, when the caller names none.
const DEFAULT_TTL: u64 = 30;

/// The envelope; clients need `data.nonce`.
#[derive(Serialize, ToSchema)]
pub struct LeaseReply {
    status: &'static str,
    data: Lease,
}

impl LeaseReply {
    fn new(data: Lease) -> Self {
        Self { status: "success", data }
    }
}

#[derive(Serialize, ToSchema)]
pub struct Released {
    status: &'static str,
    data: ReleasedData,
}

#[derive(Serialize, ToSchema)]
struct ReleasedData {
    ok: bool,
}

/// A lease that somebody else holds is told of in the lease routes' own envelope.
fn refused(error: atoll_control::ControlError) -> ApiError {
    match error.kind {
        Kind::Conflict => ApiError::from(error).in_lease_envelope(),
        _ => error.into(),
    }
}

pub async fn get(State(api): State<Api>, auth: Auth, Path((app, id)): At) -> ApiResult<Json<LeaseReply>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let lease =
        api.control.machine_lease(&app.name, machine_id(&id)?, LeaseAction::Get, LeaseRequest::default()).await?;
    lease.map(|lease| Json(LeaseReply::new(lease))).ok_or_else(|| ApiError::not_found("lease not found"))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
#[schema(as = CreateLeaseRequest)]
pub struct AcquireBody {
    description: Option<String>,
    /// Seconds.
    ttl: Option<u64>,
}

#[derive(Deserialize, ToSchema)]
pub struct AcquireQuery {
    /// Seconds; goes before the body's.
    ttl: Option<u64>,
}

pub async fn acquire(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): At,
    Params(query): Params<AcquireQuery>,
    Nonce(nonce): Nonce,
    OptionalBody(body): OptionalBody<AcquireBody>,
) -> ApiResult<Created<LeaseReply>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let lease = LeaseRequest {
        nonce,
        ttl_seconds: query.ttl.or(body.ttl).filter(|ttl| *ttl > 0).unwrap_or(DEFAULT_TTL),
        owner: auth.name(),
        description: body.description.unwrap_or_default(),
        ..LeaseRequest::default()
    };
    match api.control.machine_lease(&app.name, machine_id(&id)?, LeaseAction::Acquire, lease).await {
        Ok(Some(lease)) => Ok(Created(LeaseReply::new(lease))),
        Ok(None) => Err(ApiError::not_found("lease not found")),
        Err(error) => Err(refused(error)),
    }
}

pub async fn release(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): At,
    RequiredNonce(nonce): RequiredNonce,
) -> ApiResult<Json<Released>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let lease = LeaseRequest { nonce, ..LeaseRequest::default() };
    match api.control.machine_lease(&app.name, machine_id(&id)?, LeaseAction::Release, lease).await {
        Ok(_) => Ok(Json(Released { status: "success", data: ReleasedData { ok: true } })),
        Err(error) => Err(refused(error)),
    }
}
