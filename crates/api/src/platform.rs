//! `/v1/platform`, `/v1/orgs`, `/v1/tokens/current`: what a client asks about the platform itself.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use atoll_identity::{Action, Target};
use atoll_model::RegionCode;
use atoll_store::NodeStatus;

use crate::Api;
use crate::auth::Auth;
use crate::error::ApiResult;
use crate::time::rfc3339;

pub fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/platform/regions", get(regions))
        .route("/v1/orgs/{org}/machines", get(org_machines))
        .route("/v1/tokens/current", get(current_token))
}

/// The regions that have a server. `nearest` is control's own: where the caller is, is not known here.
async fn regions(State(api): State<Api>, auth: Auth) -> ApiResult<Json<Value>> {
    auth.may(Action::Read, Target::Platform)?;
    let nodes = api.control.directory.nodes();
    let mut servers: BTreeMap<RegionCode, usize> = BTreeMap::new();
    for known in nodes.values().filter(|known| known.node.state == NodeStatus::Active) {
        *servers.entry(known.node.region).or_default() += 1;
    }
    let regions: Vec<Value> = servers
        .iter()
        .filter_map(|(code, count)| {
            let place = code.place()?;
            Some(json!({
                "code": code,
                "name": place.city,
                "latitude": place.latitude,
                "longitude": place.longitude,
                "gateway_available": true,
                "requires_paid_plan": false,
                "deprecated": false,
                "capacity": count,
                "geo_region": place.geo,
                "mpg_available": false,
            }))
        })
        .collect();
    let nearest = nodes.get(&api.control.live.identity().node).map(|known| known.node.region);
    Ok(Json(json!({"nearest": nearest, "regions": regions})))
}

#[derive(Deserialize)]
struct OrgMachinesQuery {
    region: Option<String>,
    state: Option<String>,
}

async fn org_machines(
    State(api): State<Api>,
    auth: Auth,
    Path(org): Path<String>,
    Query(query): Query<OrgMachinesQuery>,
) -> ApiResult<Json<Value>> {
    let org = auth.org(&org, Action::Read)?;
    let mut machines = Vec::new();
    for app in api.control.all_apps().await?.iter().filter(|app| app.org == org) {
        for record in api.control.machine_records(&app.name, false).await? {
            let wanted = |asked: &Option<String>, value: &str| {
                asked.as_deref().is_none_or(|list| list.is_empty() || list.split(',').any(|one| one == value))
            };
            if wanted(&query.region, record.region.as_str()) && wanted(&query.state, record.state.as_str()) {
                machines.push(record);
            }
        }
    }
    machines.sort_by_key(|record| record.updated_at_ms);
    let last = machines.last();
    Ok(Json(json!({
        "last_machine_id": last.map(|record| record.id),
        "last_updated_at": last.map(|record| rfc3339(record.updated_at_ms)),
        "error_regions": [],
        "machines": machines.iter().map(|record| json!({
            "app_name": record.app,
            "id": record.id,
            "name": record.name,
            "state": record.state,
            "region": record.region,
            "private_ip": record.private_ip,
            "version": record.spec.version,
            "created_at": rfc3339(record.created_at_ms),
            "updated_at": rfc3339(record.updated_at_ms),
            "config": {
                "image": record.spec.config.image,
                "guest": record.spec.config.guest,
                "metadata": record.spec.config.metadata,
            },
        })).collect::<Vec<_>>(),
    })))
}

async fn current_token(auth: Auth) -> Json<Value> {
    let tokens: Vec<Value> = auth
        .0
        .principals()
        .iter()
        .map(|principal| {
            json!({
                "token_id": principal.token_id,
                "org_slug": principal.org.as_ref().map_or("personal", |org| org.as_str()),
                "organization": principal.org.as_ref().map_or("personal", |org| org.as_str()),
                "apps": principal.app.iter().collect::<Vec<_>>(),
                "user": principal.name,
                "restricted_to_machine": "",
                "source_machine_id": "",
            })
        })
        .collect();
    Json(json!({"tokens": tokens}))
}
