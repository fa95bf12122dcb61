//! A machine's metadata. Edits make no new version and restart nothing.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use atoll_identity::Action;

use crate::Api;
use crate::auth::{Auth, machine_id};
use crate::body::Body;
use crate::error::{ApiError, ApiResult};

pub async fn all(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let seen = api.control.machine(&app.name, machine_id(&id)?).await?;
    Ok(Json(json!(seen.view.config.metadata)))
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct MergeBody {
    metadata: HashMap<String, Option<String>>,
    machine_version: Option<String>,
}

pub async fn merge(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): Path<(String, String)>,
    Body(body): Body<MergeBody>,
) -> ApiResult<StatusCode> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let entries = body.metadata.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
    let version = body.machine_version.unwrap_or_default();
    api.control.machine_set_metadata(&app.name, machine_id(&id)?, entries, false, &version).await?;
    Ok(StatusCode::NO_CONTENT)
}

type AtKey = Path<(String, String, String)>;

pub async fn one(State(api): State<Api>, auth: Auth, Path((app, id, key)): AtKey) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let seen = api.control.machine(&app.name, machine_id(&id)?).await?;
    let value = seen.view.config.metadata.get(&key);
    let value = value.ok_or_else(|| ApiError::not_found(format!("metadata {key:?} not found")))?;
    Ok(Json(json!({"value": value})))
}

#[derive(Deserialize, Default)]
pub struct SetBody {
    #[serde(default)]
    value: String,
}

pub async fn set(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id, key)): AtKey,
    Body(body): Body<SetBody>,
) -> ApiResult<StatusCode> {
    change(&api, &auth, &app, &id, key, body.value).await
}

pub async fn remove(State(api): State<Api>, auth: Auth, Path((app, id, key)): AtKey) -> ApiResult<StatusCode> {
    change(&api, &auth, &app, &id, key, String::new()).await
}

async fn change(api: &Api, auth: &Auth, app: &str, id: &str, key: String, value: String) -> ApiResult<StatusCode> {
    let app = auth.app(api, app, Action::Change).await?;
    api.control.machine_set_metadata(&app.name, machine_id(id)?, HashMap::from([(key, value)]), false, "").await?;
    Ok(StatusCode::NO_CONTENT)
}
