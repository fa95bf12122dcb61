//! `/v1/apps`

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use atoll_identity::Action;
use atoll_model::AppName;
use atoll_store::{App, NewApp, PageRequest};

use crate::Api;
use crate::auth::Auth;
use crate::body::{Body, flag};
use crate::error::{ApiError, ApiResult};

pub fn routes() -> Router<Api> {
    Router::new().route("/v1/apps", get(list).post(create)).route("/v1/apps/{app}", get(show).delete(delete))
}

/// The app object; a superset of what clients read.
pub fn view(app: &App, app_domain: &str, machines: usize) -> Value {
    json!({
        "id": app.id,
        "internal_numeric_id": app.numeric_id,
        "name": app.name,
        "status": app.status.to_string(),
        "machine_count": machines,
        "volume_count": 0,
        "network": app.network_name,
        "organization": {"name": app.org, "slug": app.org, "internal_numeric_id": 1},
        "cname_target": format!("{}.{app_domain}", app.name),
        "app_role": "",
        "created_at": app.created_at_ms,
    })
}

#[derive(Deserialize)]
struct ListQuery {
    org_slug: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

async fn list(State(api): State<Api>, auth: Auth, Query(query): Query<ListQuery>) -> ApiResult<Json<Value>> {
    let slug = query
        .org_slug
        .ok_or_else(|| ApiError::invalid("org_slug is required: name the organization, such as personal"))?;
    let org = auth.org(&slug, Action::Read)?;
    let page = api.control.app_list(&org, PageRequest { limit: query.limit, cursor: query.cursor }).await?;
    let mut apps = Vec::new();
    for app in &page.items {
        let machines = api.control.machine_records(&app.name, false).await?.len();
        apps.push(view(app, &api.control.settings.app_domain, machines));
    }
    let mut body = json!({"apps": apps, "total_apps": apps.len()});
    if let Some(cursor) = page.next {
        body["next_cursor"] = cursor.into();
    }
    Ok(Json(body))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Create {
    name: Option<String>,
    /// As documentation and older clients spell it.
    app_name: Option<String>,
    org_slug: Option<String>,
    network: Option<String>,
    idempotency_key: Option<String>,
}

async fn create(
    State(api): State<Api>,
    auth: Auth,
    Body(create): Body<Create>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let text = create.name.or(create.app_name).ok_or_else(|| ApiError::invalid("name is required"))?;
    let name: AppName = text.parse().map_err(|error| ApiError::invalid(format!("{error}")))?;
    let org = auth.org(create.org_slug.as_deref().unwrap_or("personal"), Action::Create)?;
    let new = NewApp {
        name,
        org,
        network: create.network.filter(|network| !network.is_empty()),
        primary_region: None,
        idempotency_key: create.idempotency_key.filter(|key| !key.is_empty()),
    };
    let app = api.control.app_create(new).await?;
    Ok((StatusCode::CREATED, Json(view(&app, &api.control.settings.app_domain, 0))))
}

async fn show(State(api): State<Api>, auth: Auth, Path(app): Path<String>) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let machines = api.control.machine_records(&app.name, false).await?.len();
    Ok(Json(view(&app, &api.control.settings.app_domain, machines)))
}

#[derive(Deserialize)]
struct DeleteQuery {
    force: Option<String>,
}

async fn delete(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> ApiResult<StatusCode> {
    let app = auth.app(&api, &app, Action::Delete).await?;
    api.control.app_delete(&app.name, flag(query.force.as_deref())).await?;
    Ok(StatusCode::ACCEPTED)
}
