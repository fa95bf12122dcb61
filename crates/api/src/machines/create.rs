//! Making machines and new versions of them.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use atoll_control::{MachineCreate, MachineUpdate};
use atoll_identity::Action;
use atoll_model::{MachineConfig, MachineVersion};

use super::view::{Details, HostStatus, machine};
use crate::Api;
use crate::auth::{Auth, machine_id};
use crate::body::Body;
use crate::error::{ApiError, ApiResult};

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct CreateBody {
    name: Option<String>,
    region: Option<String>,
    config: Option<MachineConfig>,
    skip_launch: Option<bool>,
    skip_service_registration: Option<bool>,
    skip_secrets: Option<bool>,
    /// Seconds.
    lease_ttl: Option<u64>,
}

pub async fn create(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Body(body): Body<CreateBody>,
) -> ApiResult<Json<Value>> {
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
    let mut shown = machine(&seen.view, HostStatus::Ok, Details::default());
    if let Some(lease) = &seen.view.lease {
        shown["nonce"] = lease.nonce.clone().into();
    }
    Ok(Json(shown))
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct UpdateBody {
    config: Option<MachineConfig>,
    current_version: Option<String>,
    skip_launch: Option<bool>,
}

pub async fn update(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): Path<(String, String)>,
    headers: HeaderMap,
    Body(body): Body<UpdateBody>,
) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let current_version: Option<MachineVersion> = match body.current_version.as_deref() {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|error| ApiError::invalid(format!("current_version: {error}")))?),
    };
    let update = MachineUpdate {
        config: body.config.ok_or_else(|| ApiError::invalid("config is required"))?,
        current_version,
        skip_launch: body.skip_launch.unwrap_or(false),
        nonce: super::nonce(&headers),
        ..MachineUpdate::default()
    };
    let seen = api.control.machine_update(&app.name, machine_id(&id)?, update).await?;
    Ok(Json(machine(&seen.view, HostStatus::Ok, Details::default())))
}
