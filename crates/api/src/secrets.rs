//! `/v1/apps/{app}/secrets`: names and digests are shown, values never.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use atoll_identity::Action;
use atoll_store::Secret;

use crate::Api;
use crate::auth::Auth;
use crate::body::Body;
use crate::error::{ApiError, ApiResult};
use crate::time::rfc3339;

pub fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/apps/{app}/secrets", get(list).post(change))
        .route("/v1/apps/{app}/secrets/{name}", get(show).post(set).delete(unset))
}

fn view(secret: &Secret) -> Value {
    json!({"name": secret.name, "digest": secret.digest, "created_at": rfc3339(secret.created_at_ms)})
}

async fn list(State(api): State<Api>, auth: Auth, Path(app): Path<String>) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let secrets = api.control.secrets(&app.name).await?;
    Ok(Json(json!({"secrets": secrets.iter().map(view).collect::<Vec<_>>()})))
}

#[derive(Deserialize, Default)]
struct Change {
    #[serde(default)]
    values: BTreeMap<String, Option<String>>,
}

async fn change(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Body(change): Body<Change>,
) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let version = api.control.secrets_change(&app.name, change.values).await?;
    let secrets = api.control.secrets(&app.name).await?;
    Ok(Json(json!({"secrets": secrets.iter().map(view).collect::<Vec<_>>(), "version": version, "Version": version})))
}

async fn find(api: &Api, app: &atoll_model::AppName, name: &str) -> ApiResult<Secret> {
    let secrets = api.control.secrets(app).await?;
    let found = secrets.into_iter().find(|secret| secret.name == name);
    found.ok_or_else(|| ApiError::not_found(format!("secret {name:?} not found")))
}

async fn show(State(api): State<Api>, auth: Auth, Path((app, name)): Path<(String, String)>) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    Ok(Json(view(&find(&api, &app.name, &name).await?)))
}

#[derive(Deserialize, Default)]
struct Set {
    value: Option<String>,
}

async fn set(
    State(api): State<Api>,
    auth: Auth,
    Path((app, name)): Path<(String, String)>,
    Body(set): Body<Set>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let value = set.value.ok_or_else(|| ApiError::invalid("value is required"))?;
    let version = api.control.secrets_change(&app.name, BTreeMap::from([(name.clone(), Some(value))])).await?;
    let mut body = view(&find(&api, &app.name, &name).await?);
    body["version"] = version.into();
    body["Version"] = version.into();
    Ok((StatusCode::CREATED, Json(body)))
}

async fn unset(
    State(api): State<Api>,
    auth: Auth,
    Path((app, name)): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let version = api.control.secrets_change(&app.name, BTreeMap::from([(name, None)])).await?;
    Ok(Json(json!({"version": version, "Version": version})))
}
