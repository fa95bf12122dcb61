//! `/v1/platform`, `/v1/orgs`, `/v1/tokens/current`: what a client asks about the platform itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use atoll_identity::{Action, Principal, Target};
use atoll_model::guest::GuestRequest;
use atoll_model::region::GeoRegion;
use atoll_model::{AppName, MachineId, MachineVersion, RegionCode};
use atoll_store::{MachineRecord, NodeStatus, Page};

use crate::Api;
use crate::auth::Auth;
use crate::body::{Flag, Params};
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};
use crate::machines::listed;
use crate::pages::{self, MAX_MACHINES};
use crate::time::{rfc3339, unix_ms};

pub fn routes() -> Routes {
    Routes::default()
        .get("/v1/platform/regions", "Platform_regions_get", "The regions that have a server", regions)
        .get("/v1/orgs/{org_slug}/machines", "Machines_org_list", "The machines of an organization", org_machines)
        .get("/v1/tokens/current", "CurrentToken_show", "Who the caller is", current_token)
        .fails([401, 500])
}

#[derive(Serialize, ToSchema)]
#[schema(as = regionResponse)]
struct RegionList {
    /// Control's own: where the caller is, is not known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<RegionCode>,
    regions: Vec<RegionView>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Region)]
struct RegionView {
    code: RegionCode,
    name: &'static str,
    latitude: f64,
    longitude: f64,
    gateway_available: bool,
    requires_paid_plan: bool,
    deprecated: bool,
    /// Servers.
    capacity: usize,
    geo_region: GeoRegion,
    mpg_available: bool,
}

async fn regions(State(api): State<Api>, auth: Auth) -> ApiResult<Json<RegionList>> {
    auth.may(Action::Read, Target::Platform)?;
    let nodes = api.control.directory.nodes();
    let mut servers: BTreeMap<RegionCode, usize> = BTreeMap::new();
    for known in nodes.values().filter(|known| known.node.state == NodeStatus::Active) {
        *servers.entry(known.node.region).or_default() += 1;
    }
    let view = |(code, capacity): (RegionCode, usize)| {
        let place = code.place()?;
        Some(RegionView {
            code,
            name: place.city,
            latitude: place.latitude,
            longitude: place.longitude,
            gateway_available: true,
            requires_paid_plan: false,
            deprecated: false,
            capacity,
            geo_region: place.geo,
            mpg_available: false,
        })
    };
    let nearest = nodes.get(&api.control.live.identity().node).map(|known| known.node.region);
    Ok(Json(RegionList { nearest, regions: servers.into_iter().filter_map(view).collect() }))
}

#[derive(Deserialize, ToSchema)]
struct OrgMachinesQuery {
    #[serde(default)]
    #[schema(value_type = bool)]
    include_deleted: Flag,
    /// One or several, with commas between.
    region: Option<String>,
    /// One or several, with commas between.
    state: Option<String>,
    /// Leave out configuration.
    #[serde(default)]
    #[schema(value_type = bool)]
    summary: Flag,
    /// Only what changed after this moment, RFC 3339; a cursor counts more.
    updated_after: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1000 at most and if absent. What the other conditions leave out counts.
    limit: Option<u32>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = OrgMachinesResponse)]
struct OrgMachineList {
    /// Least recently changed first.
    machines: Vec<OrgMachine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_machine_id: Option<MachineId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_updated_at: Option<String>,
    /// Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    /// Always empty: the list is made of control's own records.
    error_regions: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct OrgMachine {
    app_name: AppName,
    id: MachineId,
    name: String,
    state: String,
    region: RegionCode,
    private_ip: String,
    version: MachineVersion,
    created_at: String,
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<MachineOverviewConfig>,
}

#[derive(Serialize, ToSchema)]
struct MachineOverviewConfig {
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<GuestRequest>,
    metadata: BTreeMap<String, String>,
}

impl OrgMachine {
    fn new(record: MachineRecord, summary: bool) -> Self {
        let config = record.spec.config;
        let overview = MachineOverviewConfig { image: config.image, guest: config.guest, metadata: config.metadata };
        Self {
            app_name: record.app,
            id: record.id,
            name: record.name,
            state: record.state.to_string(),
            region: record.region,
            private_ip: record.private_ip.to_string(),
            version: record.spec.version,
            created_at: rfc3339(record.created_at_ms),
            updated_at: rfc3339(record.updated_at_ms),
            config: (!summary).then_some(overview),
        }
    }
}

async fn org_machines(
    State(api): State<Api>,
    auth: Auth,
    Path(org): Path<String>,
    Params(query): Params<OrgMachinesQuery>,
) -> ApiResult<Json<OrgMachineList>> {
    let org = auth.org(&org, Action::Read)?;
    let after_ms = match query.updated_after.as_deref().filter(|text| !text.is_empty()) {
        None => 0,
        Some(text) => unix_ms(text).ok_or_else(|| {
            ApiError::invalid(format!("invalid_argument: updated_after {text:?} is no moment as 2026-01-31T12:00:00Z"))
        })?,
    };
    let page = pages::wanted(query.limit.or(Some(MAX_MACHINES)), query.cursor, MAX_MACHINES)?.unwrap_or_default();
    let Page { items, next } = api.control.machine_changes(&org, query.include_deleted.0, after_ms, &page).await?;
    let last = items.last();
    Ok(Json(OrgMachineList {
        last_machine_id: last.map(|record| record.id),
        last_updated_at: last.map(|record| rfc3339(record.updated_at_ms)),
        next_cursor: next,
        error_regions: Vec::new(),
        machines: items
            .into_iter()
            .filter(|record| listed(query.region.as_deref(), record.region.as_str()))
            .filter(|record| listed(query.state.as_deref(), record.state.as_str()))
            .map(|record| OrgMachine::new(record, query.summary.0))
            .collect(),
    }))
}

#[derive(Serialize, ToSchema)]
#[schema(as = CurrentTokenResponse)]
struct CurrentToken {
    tokens: Vec<TokenInfo>,
}

#[derive(Serialize, ToSchema)]
struct TokenInfo {
    token_id: String,
    org_slug: String,
    organization: String,
    /// Empty: not bound to an app.
    apps: Vec<AppName>,
    user: String,
    restricted_to_machine: String,
    source_machine_id: String,
}

async fn current_token(auth: Auth) -> ApiResult<Json<CurrentToken>> {
    let info = |principal: &Principal| {
        let org = principal.org.as_ref().map_or("personal", |org| org.as_str()).to_owned();
        TokenInfo {
            token_id: principal.token_id.clone(),
            org_slug: org.clone(),
            organization: org,
            apps: principal.app.iter().cloned().collect(),
            user: principal.name.clone(),
            restricted_to_machine: String::new(),
            source_machine_id: String::new(),
        }
    };
    Ok(Json(CurrentToken { tokens: auth.principals().iter().map(info).collect() }))
}
