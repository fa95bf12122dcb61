//! Making machines and new versions of them.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::ToSchema;

use atoll_control::{MachineCreate, MachineUpdate};
use atoll_identity::Action;
use atoll_model::{MachineConfig, MachineVersion};

use super::view::{Details, HostStatus, Machine};
use crate::Api;
use crate::auth::{Auth, machine_id};
use crate::body::{Body, Nonce};
use crate::error::{ApiError, ApiResult};

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
#[schema(as = CreateMachineRequest)]
pub struct CreateBody {
    /// Unique in the app; made up if absent.
    name: Option<String>,
    region: Option<String>,
    #[schema(required)]
    config: Option<MachineConfig>,
    /// Prepare, but do not start.
    skip_launch: Option<bool>,
    /// Make it cordoned.
    skip_service_registration: Option<bool>,
    /// Without the app's secrets in its environment.
    skip_secrets: Option<bool>,
    /// Seconds; takes a lease whose nonce is in the answer.
    lease_ttl: Option<u64>,
}

pub async fn create(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Body(body): Body<CreateBody>,
) -> ApiResult<Json<Machine>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let config = body.config.ok_or_else(|| ApiError::invalid("config is required"))?;
    let create = MachineCreate {
        name: body.name,
        region: body.region,
        config,
        skip_launch: body.skip_launch.unwrap_or(false),
        cordoned: body.skip_service_registration.unwrap_or(false),
        skip_secrets: body.skip_secrets.unwrap_or(false),
        lease_ttl: body.lease_ttl.unwrap_or(0),
        lease_owner: auth.name(),
        ..MachineCreate::default()
    };
    let seen = api.control.machine_create(&app.name, create).await?;
    auth.on("machine", seen.view.id);
    let nonce = seen.view.lease.as_ref().map(|lease| lease.nonce.clone());
    Ok(Json(Machine::new(seen.view, HostStatus::Ok, Details::default()).with_nonce(nonce)))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
#[schema(as = UpdateMachineRequest)]
pub struct UpdateBody {
    /// Replaces the whole configuration.
    #[schema(required)]
    config: Option<MachineConfig>,
    /// Refuse if the machine has another one.
    current_version: Option<String>,
    skip_launch: Option<bool>,
}

pub async fn update(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): Path<(String, String)>,
    Nonce(nonce): Nonce,
    Body(body): Body<UpdateBody>,
) -> ApiResult<Json<Machine>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let current_version: Option<MachineVersion> = match body.current_version.as_deref() {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|error| ApiError::invalid(format!("current_version: {error}")))?),
    };
    let update = MachineUpdate {
        config: body.config.ok_or_else(|| ApiError::invalid("config is required"))?,
        current_version,
        skip_launch: body.skip_launch.unwrap_or(false),
        nonce,
        ..MachineUpdate::default()
    };
    let seen = api.control.machine_update(&app.name, machine_id(&id)?, update).await?;
    Ok(Json(Machine::new(seen.view, HostStatus::Ok, Details::default())))
}
