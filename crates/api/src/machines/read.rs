//! Looking at machines, and waiting for them.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use atoll_control::Seen;
use atoll_identity::Action;
use atoll_model::machine::Event;
use atoll_model::{MachineConfig, MachineState, MachineVersion};
use atoll_rpc::contract::ProcessRow;
use atoll_rpc::proto::worker::{MachineRequest, WaitRequest};
use atoll_store::Page;

use super::view::{Details, HostStatus, Machine};
use crate::Api;
use crate::auth::{Auth, machine_id};
use crate::body::{Flag, FromPairs, Pairs, Params};
use crate::error::{ApiError, ApiResult};
use crate::pages::{self, MAX_MACHINES, Paged};

type At = Path<(String, String)>;

pub(crate) fn host_status(seen: &Seen) -> HostStatus {
    if seen.heard { HostStatus::Ok } else { HostStatus::Unreachable }
}

#[derive(Default, ToSchema)]
pub struct ListQuery {
    #[schema(value_type = Option<bool>)]
    include_deleted: Flag,
    #[schema(value_type = Option<bool>)]
    include_leases: Flag,
    /// One or several, with commas between.
    region: Option<String>,
    /// One or several, with commas between.
    state: Option<String>,
    /// Leave out configuration, checks, events, host status.
    #[schema(value_type = Option<bool>)]
    summary: Flag,
    /// 1 to 1000; everything in one page if absent. What the other conditions leave out counts.
    limit: Option<u32>,
    /// The header `fly-next-cursor` of the page before.
    cursor: Option<String>,
    /// Only machines whose metadata has this value under `key`; each of several.
    #[schema(rename = "metadata.{key}", value_type = Option<String>)]
    metadata: Vec<(String, String)>,
}

impl FromPairs for ListQuery {
    fn from_pairs(pairs: &[(String, String)]) -> ApiResult<Self> {
        let mut query = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "include_deleted" => query.include_deleted = Flag::of(value),
                "include_leases" => query.include_leases = Flag::of(value),
                "summary" => query.summary = Flag::of(value),
                "region" => query.region = Some(value.clone()),
                "state" => query.state = Some(value.clone()),
                "limit" => query.limit = Some(limit(value)?),
                "cursor" => query.cursor = Some(value.clone()),
                other => {
                    query.metadata.extend(other.strip_prefix("metadata.").map(|key| (key.to_owned(), value.clone())));
                }
            }
        }
        Ok(query)
    }
}

fn limit(text: &str) -> ApiResult<u32> {
    text.parse().map_err(|_| ApiError::invalid(format!("invalid_argument: limit must be a number, not {text:?}")))
}

/// Whether `list`, with commas between, is empty or has `value`.
pub(crate) fn listed(list: Option<&str>, value: &str) -> bool {
    list.is_none_or(|list| list.is_empty() || list.split(',').any(|one| one.trim() == value))
}

pub async fn list(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Pairs(query): Pairs<ListQuery>,
) -> ApiResult<Paged<Machine>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let details = Details { lease: query.include_leases.0, summary: query.summary.0 };
    let include_deleted = query.include_deleted.0;
    let Page { items, next } = match pages::wanted(query.limit, query.cursor, MAX_MACHINES)? {
        Some(page) => api.control.machines_page(&app.name, include_deleted, &page).await?,
        None => Page { items: api.control.machines(&app.name, include_deleted).await?, next: None },
    };
    let shown = items
        .into_iter()
        .filter(|seen| listed(query.region.as_deref(), seen.view.region.as_str()))
        .filter(|seen| listed(query.state.as_deref(), seen.view.state.as_str()))
        .filter(|seen| {
            let has = &seen.view.config.metadata;
            query.metadata.iter().all(|(key, wanted)| has.get(key) == Some(wanted))
        })
        .map(|seen| Machine::new_seen(seen, details))
        .collect();
    Ok(Paged(Page { items: shown, next }))
}

#[derive(Deserialize, ToSchema)]
pub struct ShowQuery {
    version: Option<String>,
    #[serde(default)]
    #[schema(value_type = bool)]
    include_leases: Flag,
}

pub async fn show(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): At,
    Params(query): Params<ShowQuery>,
) -> ApiResult<Json<Machine>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let mut seen = api.control.machine(&app.name, machine_id(&id)?).await?;
    if let Some(version) = query.version.filter(|version| *version != seen.view.version.to_string()) {
        let earlier = &mut seen.view.earlier_versions;
        let Some(index) = earlier.iter().position(|earlier| earlier.version.to_string() == version) else {
            return Err(ApiError::not_found(format!("machine not found: {id} has no version {version}")));
        };
        let earlier = earlier.swap_remove(index);
        return Ok(Json(Machine::replaced(seen.view, earlier)));
    }
    let details = Details { lease: query.include_leases.0, ..Details::default() };
    Ok(Json(Machine::new_seen(seen, details)))
}

impl Machine {
    fn new_seen(seen: Seen, details: Details) -> Self {
        let host = host_status(&seen);
        Self::new(seen.view, host, details)
    }
}

#[derive(Deserialize, ToSchema)]
pub struct EventsQuery {
    /// 20 if absent, 50 at most.
    limit: Option<usize>,
}

pub async fn events(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): At,
    Params(query): Params<EventsQuery>,
) -> ApiResult<Json<Vec<Event>>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let mut seen = api.control.machine(&app.name, machine_id(&id)?).await?;
    seen.view.events.truncate(query.limit.unwrap_or(20).min(50));
    Ok(Json(seen.view.events))
}

/// A version of a machine.
#[derive(Serialize, ToSchema)]
#[schema(as = MachineVersion)]
pub struct VersionView {
    #[schema(value_type = String)]
    version: MachineVersion,
    user_config: MachineConfig,
}

pub async fn versions(State(api): State<Api>, auth: Auth, Path((app, id)): At) -> ApiResult<Json<Vec<VersionView>>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let seen = api.control.machine(&app.name, machine_id(&id)?).await?;
    let present = VersionView { version: seen.view.version, user_config: seen.view.config };
    let earlier = seen.view.earlier_versions.into_iter();
    let earlier = earlier.map(|earlier| VersionView { version: earlier.version, user_config: earlier.config });
    Ok(Json(std::iter::once(present).chain(earlier).collect()))
}

#[derive(Serialize, ToSchema)]
pub struct ProcessStat {
    pid: u32,
    /// Clock ticks in the kernel.
    stime: u64,
    /// Seconds since it started.
    rtime: u64,
    command: String,
    directory: String,
    /// Clock ticks spent.
    cpu: u64,
    /// Resident bytes.
    rss: u64,
}

impl From<ProcessRow> for ProcessStat {
    fn from(row: ProcessRow) -> Self {
        let ProcessRow { pid, rtime, stime, command, directory, cpu, rss } = row;
        Self { pid, stime, rtime, command, directory, cpu, rss }
    }
}

pub async fn processes(State(api): State<Api>, auth: Auth, Path((app, id)): At) -> ApiResult<Json<Vec<ProcessStat>>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let id = machine_id(&id)?;
    let record = api.control.machine_record(&app.name, id).await?;
    let mut request = tonic::Request::new(MachineRequest { machine: id.to_string() });
    request.set_timeout(Duration::from_secs(15));
    let reply = api.control.directory.worker(&record.node)?.processes(request).await?.into_inner();
    let rows: Vec<ProcessRow> =
        serde_json::from_slice(&reply.processes_json).map_err(atoll_control::ControlError::internal)?;
    Ok(Json(rows.into_iter().map(ProcessStat::from).collect()))
}

/// States that may be waited for.
const WAITABLE: &[&str] = &["started", "stopped", "suspended", "destroyed", "failed", "settled"];
const MAX_WAIT_SECONDS: u64 = 60;

#[derive(ToSchema)]
pub struct WaitQuery {
    /// `started` if absent; several are given by repeating, or with commas between. Any of them ends
    /// the wait.
    #[schema(value_type = Option<String>)]
    state: Vec<String>,
    version: Option<String>,
    /// Deprecated name of `version`.
    instance_id: Option<String>,
    /// Only what happens after this event counts.
    from_event_id: Option<String>,
    /// Seconds, 60 at most.
    #[schema(value_type = Option<u64>)]
    timeout: u64,
}

impl FromPairs for WaitQuery {
    fn from_pairs(pairs: &[(String, String)]) -> ApiResult<Self> {
        let mut query = Self {
            state: Vec::new(),
            version: None,
            instance_id: None,
            from_event_id: None,
            timeout: MAX_WAIT_SECONDS,
        };
        for (name, value) in pairs {
            match name.as_str() {
                "state" => query.state.extend(value.split(',').filter(|state| !state.is_empty()).map(str::to_owned)),
                "version" => query.version = Some(value.clone()),
                "instance_id" => query.instance_id = Some(value.clone()),
                "from_event_id" => query.from_event_id = Some(value.clone()),
                "timeout" if !value.is_empty() => query.timeout = wait_seconds(value)?,
                _ => {}
            }
        }
        if query.state.is_empty() {
            query.state.push(MachineState::Started.to_string());
        }
        if let Some(bad) = query.state.iter().find(|state| !WAITABLE.contains(&state.as_str())) {
            return Err(ApiError::invalid(format!(
                "invalid_argument: cannot wait for state {bad:?}; use one of {}",
                WAITABLE.join(", ")
            )));
        }
        Ok(query)
    }
}

fn wait_seconds(text: &str) -> ApiResult<u64> {
    let seconds: u64 = text
        .trim_end_matches('s')
        .parse()
        .map_err(|_| ApiError::invalid("invalid_argument: timeout must be a whole number of seconds"))?;
    Ok(seconds.clamp(1, MAX_WAIT_SECONDS))
}

#[derive(Serialize, ToSchema)]
#[schema(as = WaitMachineResponse)]
pub struct Waited {
    ok: bool,
    state: String,
    version: String,
    event_id: String,
}

pub async fn wait(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): At,
    Pairs(query): Pairs<WaitQuery>,
) -> ApiResult<Json<Waited>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let wait = WaitRequest {
        machine: String::new(),
        states: query.state,
        version: query.version.or(query.instance_id).unwrap_or_default(),
        from_event: query.from_event_id.unwrap_or_default(),
        timeout_ms: query.timeout * 1000,
    };
    let reply = api.control.machine_wait(&app.name, machine_id(&id)?, wait).await?;
    Ok(Json(Waited { ok: true, state: reply.state, version: reply.version, event_id: reply.event }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::pairs;

    fn parsed(query: &str) -> ApiResult<WaitQuery> {
        WaitQuery::from_pairs(&pairs(Some(query)))
    }

    #[test]
    fn waits_are_read_in_every_spelling() {
        let wait = parsed("state=stopped&state=destroyed&timeout=60s&instance_id=01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        assert_eq!(wait.state, ["stopped", "destroyed"]);
        assert_eq!(wait.timeout, 60);
        assert_eq!(wait.instance_id.as_deref(), Some("01ARZ3NDEKTSV4RRFFQ69G5FAV"));
        assert_eq!(parsed("").unwrap().state, ["started"]);
        assert_eq!(parsed("state=started,failed&timeout=999").unwrap().timeout, 60);
        assert!(parsed("state=asleep").is_err());
        assert!(parsed("timeout=soon").is_err());
    }

    #[test]
    fn lists_are_filtered_by_any_metadata() {
        let query = ListQuery::from_pairs(&pairs(Some("metadata.a=1&metadata.b=2&summary=&region=ams,nrt"))).unwrap();
        assert_eq!(query.metadata, [("a".into(), "1".into()), ("b".into(), "2".into())]);
        assert!(query.summary.0 && !query.include_deleted.0);
        assert!(listed(query.region.as_deref(), "nrt") && !listed(query.region.as_deref(), "ord"));
    }
}
