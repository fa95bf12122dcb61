//! A machine's metadata. Edits make no new version and restart nothing.

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use atoll_identity::Action;

use crate::Api;
use crate::answer::NoContent;
use crate::auth::{Auth, machine_id};
use crate::body::Body;
use crate::error::{ApiError, ApiResult};

pub async fn all(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): Path<(String, String)>,
) -> ApiResult<Json<BTreeMap<String, String>>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let seen = api.control.machine(&app.name, machine_id(&id)?).await?;
    Ok(Json(seen.view.config.metadata))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
#[schema(as = updateMetadataRequest)]
pub struct MergeBody {
    /// `null` or an empty text removes a key.
    metadata: HashMap<String, Option<String>>,
    /// Refuse if the machine has another one.
    machine_version: Option<String>,
}

pub async fn merge(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): Path<(String, String)>,
    Body(body): Body<MergeBody>,
) -> ApiResult<NoContent> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let entries = body.metadata.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
    let version = body.machine_version.unwrap_or_default();
    api.control.machine_set_metadata(&app.name, machine_id(&id)?, entries, false, &version).await?;
    Ok(NoContent)
}

type AtKey = Path<(String, String, String)>;

#[derive(Serialize, ToSchema)]
#[schema(as = metadataValueResponse)]
pub struct MetadataValue {
    value: String,
}

pub async fn one(State(api): State<Api>, auth: Auth, Path((app, id, key)): AtKey) -> ApiResult<Json<MetadataValue>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let seen = api.control.machine(&app.name, machine_id(&id)?).await?;
    let mut metadata = seen.view.config.metadata;
    let value = metadata.remove(&key);
    let value = value.ok_or_else(|| ApiError::not_found(format!("metadata {key:?} not found")))?;
    Ok(Json(MetadataValue { value }))
}

#[derive(Deserialize, Default, ToSchema)]
#[schema(as = upsertMetadataKeyRequest)]
pub struct SetBody {
    #[serde(default)]
    value: String,
}

pub async fn set(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id, key)): AtKey,
    Body(body): Body<SetBody>,
) -> ApiResult<NoContent> {
    change(&api, &auth, &app, &id, key, body.value).await
}

pub async fn remove(State(api): State<Api>, auth: Auth, Path((app, id, key)): AtKey) -> ApiResult<NoContent> {
    change(&api, &auth, &app, &id, key, String::new()).await
}

async fn change(api: &Api, auth: &Auth, app: &str, id: &str, key: String, value: String) -> ApiResult<NoContent> {
    let app = auth.app(api, app, Action::Change).await?;
    api.control.machine_set_metadata(&app.name, machine_id(id)?, HashMap::from([(key, value)]), false, "").await?;
    Ok(NoContent)
}
