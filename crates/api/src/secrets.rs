//! `/v1/apps/{app}/secrets`: names and digests are shown, values never.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use atoll_identity::Action;
use atoll_store::Secret;

use crate::Api;
use crate::answer::Created;
use crate::auth::Auth;
use crate::body::Body;
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};
use crate::time::rfc3339;

pub fn routes() -> Routes {
    let (all, one) = ("/v1/apps/{app_name}/secrets", "/v1/apps/{app_name}/secrets/{secret_name}");
    Routes::default()
        .get(all, "Secrets_list", "Names and digests of an app's secrets", list)
        .post(all, "Secrets_update", "Set and unset several secrets at once", change)
        .get(one, "Secret_get", "Name and digest of a secret", show)
        .post(one, "Secret_create", "Set a secret", set)
        .delete(one, "Secret_delete", "Unset a secret", unset)
}

/// A secret without its value, which nobody reads back.
#[derive(Serialize, ToSchema)]
struct AppSecret {
    name: String,
    /// Tells values apart without revealing them.
    digest: String,
    created_at: String,
    updated_at: String,
}

impl From<Secret> for AppSecret {
    fn from(secret: Secret) -> Self {
        Self {
            name: secret.name,
            digest: secret.digest,
            created_at: rfc3339(secret.created_at_ms),
            updated_at: rfc3339(secret.updated_at_ms),
        }
    }
}

#[derive(Serialize, ToSchema)]
struct AppSecrets {
    secrets: Vec<AppSecret>,
}

/// Grows with every change of an app's secrets; twice, as clients read either name.
#[derive(Serialize, ToSchema)]
struct SecretsVersion {
    version: u64,
    #[serde(rename = "Version")]
    deprecated: u64,
}

impl SecretsVersion {
    fn new(version: u64) -> Self {
        Self { version, deprecated: version }
    }
}

#[derive(Serialize, ToSchema)]
struct ChangedSecrets {
    secrets: Vec<AppSecret>,
    #[serde(flatten)]
    version: SecretsVersion,
}

#[derive(Serialize, ToSchema)]
struct ChangedSecret {
    #[serde(flatten)]
    secret: AppSecret,
    #[serde(flatten)]
    version: SecretsVersion,
}

async fn list(State(api): State<Api>, auth: Auth, Path(app): Path<String>) -> ApiResult<Json<AppSecrets>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let secrets = api.control.secrets(&app.name).await?;
    Ok(Json(AppSecrets { secrets: secrets.into_iter().map(AppSecret::from).collect() }))
}

#[derive(Deserialize, Default, ToSchema)]
#[schema(as = AppSecretsUpdateRequest)]
struct Change {
    /// By name; `null` unsets.
    #[serde(default)]
    values: BTreeMap<String, Option<String>>,
}

async fn change(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Body(change): Body<Change>,
) -> ApiResult<Json<ChangedSecrets>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    for name in change.values.keys() {
        auth.on("secret", name);
    }
    let version = api.control.secrets_change(&app.name, change.values).await?;
    let secrets = api.control.secrets(&app.name).await?;
    let secrets = secrets.into_iter().map(AppSecret::from).collect();
    Ok(Json(ChangedSecrets { secrets, version: SecretsVersion::new(version) }))
}

async fn find(api: &Api, app: &atoll_model::AppName, name: &str) -> ApiResult<Secret> {
    let secrets = api.control.secrets(app).await?;
    let found = secrets.into_iter().find(|secret| secret.name == name);
    found.ok_or_else(|| ApiError::not_found(format!("secret {name:?} not found")))
}

async fn show(
    State(api): State<Api>,
    auth: Auth,
    Path((app, name)): Path<(String, String)>,
) -> ApiResult<Json<AppSecret>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    Ok(Json(find(&api, &app.name, &name).await?.into()))
}

#[derive(Deserialize, Default, ToSchema)]
#[schema(as = SetAppSecretRequest)]
struct Set {
    #[schema(required)]
    value: Option<String>,
}

async fn set(
    State(api): State<Api>,
    auth: Auth,
    Path((app, name)): Path<(String, String)>,
    Body(set): Body<Set>,
) -> ApiResult<Created<ChangedSecret>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let value = set.value.ok_or_else(|| ApiError::invalid("value is required"))?;
    let version = api.control.secrets_change(&app.name, BTreeMap::from([(name.clone(), Some(value))])).await?;
    let secret = find(&api, &app.name, &name).await?.into();
    Ok(Created(ChangedSecret { secret, version: SecretsVersion::new(version) }))
}

async fn unset(
    State(api): State<Api>,
    auth: Auth,
    Path((app, name)): Path<(String, String)>,
) -> ApiResult<Json<SecretsVersion>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let version = api.control.secrets_change(&app.name, BTreeMap::from([(name, None)])).await?;
    Ok(Json(SecretsVersion::new(version)))
}
