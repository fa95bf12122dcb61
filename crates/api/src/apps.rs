//! `/v1/apps`

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use atoll_identity::Action;
use atoll_model::{AppName, OrgSlug};
use atoll_store::{App, MAX_LIMIT, NewApp};

use crate::Api;
use crate::answer::{Created, Underway};
use crate::auth::Auth;
use crate::body::{Body, Flag, Params};
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};
use crate::pages;

pub fn routes() -> Routes {
    Routes::default()
        .get("/v1/apps", "Apps_list", "The apps of an organization", list)
        .post("/v1/apps", "Apps_create", "Make an app", create)
        .fails([422])
        .get("/v1/apps/{app_name}", "Apps_show", "One app", show)
        .delete("/v1/apps/{app_name}", "Apps_delete", "Destroy an app with its machines", delete)
}

/// An app; a superset of what clients read.
#[derive(Serialize, ToSchema)]
#[schema(as = App)]
struct AppView {
    id: String,
    internal_numeric_id: u64,
    name: AppName,
    /// `pending` before the first release, then `deployed`.
    status: String,
    machine_count: usize,
    volume_count: usize,
    /// Name of its private network.
    network: String,
    organization: AppOrganization,
    /// Where a name of one's own may point to.
    cname_target: String,
    app_role: String,
    /// Unix milliseconds.
    created_at: u64,
}

#[derive(Serialize, ToSchema)]
struct AppOrganization {
    name: OrgSlug,
    slug: OrgSlug,
    internal_numeric_id: u64,
}

fn view(app: App, app_domain: &str, machines: usize) -> AppView {
    AppView {
        id: app.id,
        internal_numeric_id: app.numeric_id,
        status: app.status.to_string(),
        machine_count: machines,
        volume_count: 0,
        network: app.network_name,
        organization: AppOrganization { name: app.org.clone(), slug: app.org, internal_numeric_id: 1 },
        cname_target: format!("{}.{app_domain}", app.name),
        app_role: String::new(),
        created_at: app.created_at_ms,
        name: app.name,
    }
}

#[derive(Deserialize, ToSchema)]
struct ListQuery {
    /// Such as `personal`.
    #[schema(required)]
    org_slug: Option<String>,
    /// 1 to 5000; everything in one page if absent.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct AppList {
    apps: Vec<AppView>,
    /// On all pages.
    total_apps: u64,
    /// Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

async fn list(State(api): State<Api>, auth: Auth, Params(query): Params<ListQuery>) -> ApiResult<Json<AppList>> {
    let slug = query
        .org_slug
        .ok_or_else(|| ApiError::invalid("org_slug is required: name the organization, such as personal"))?;
    let org = auth.org(&slug, Action::Read)?;
    let list = api.control.app_list(&org, pages::wanted(query.limit, query.cursor, MAX_LIMIT)?).await?;
    let mut apps = Vec::new();
    for app in list.apps.items {
        let machines = api.control.machine_records(&app.name, false).await?.len();
        apps.push(view(app, &api.control.settings.app_domain, machines));
    }
    Ok(Json(AppList { total_apps: list.total, apps, next_cursor: list.apps.next }))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
#[schema(as = CreateAppRequest)]
struct Create {
    name: Option<String>,
    /// As documentation and older clients spell `name`.
    app_name: Option<String>,
    org_slug: Option<String>,
    network: Option<String>,
    /// A second request with the same key and name answers with the first one's app.
    idempotency_key: Option<String>,
}

async fn create(State(api): State<Api>, auth: Auth, Body(create): Body<Create>) -> ApiResult<Created<AppView>> {
    let text = create.name.or(create.app_name).ok_or_else(|| ApiError::invalid("name is required"))?;
    auth.on("app", &text);
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
    Ok(Created(view(app, &api.control.settings.app_domain, 0)))
}

async fn show(State(api): State<Api>, auth: Auth, Path(app): Path<String>) -> ApiResult<Json<AppView>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let machines = api.control.machine_records(&app.name, false).await?.len();
    Ok(Json(view(app, &api.control.settings.app_domain, machines)))
}

#[derive(Deserialize, ToSchema)]
struct DeleteQuery {
    /// Running machines too.
    #[serde(default)]
    #[schema(value_type = bool)]
    force: Flag,
}

async fn delete(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Params(query): Params<DeleteQuery>,
) -> ApiResult<Underway> {
    let app = auth.app(&api, &app, Action::Delete).await?;
    api.control.app_delete(&app.name, query.force.0).await?;
    Ok(Underway)
}
