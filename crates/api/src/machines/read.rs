//! Looking at machines, and waiting for them.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, RawQuery, State};
use serde::Deserialize;
use serde_json::{Value, json};

use atoll_control::Seen;
use atoll_identity::Action;
use atoll_model::MachineState;
use atoll_rpc::contract::ProcessRow;
use atoll_rpc::proto::worker::{MachineRequest, WaitRequest};

use super::view::{self, Details, HostStatus, machine};
use crate::Api;
use crate::auth::{Auth, machine_id};
use crate::body::flag;
use crate::error::{ApiError, ApiResult};

type At = Path<(String, String)>;

pub(crate) fn host_status(seen: &Seen) -> HostStatus {
    if seen.heard { HostStatus::Ok } else { HostStatus::Unreachable }
}

/// Query parameters may repeat and have free names (`metadata.{key}`), so they are kept as pairs.
fn pairs(query: Option<&str>) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

pub async fn list(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    RawQuery(query): RawQuery,
) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let query = pairs(query.as_deref());
    let value = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let details = Details { lease: flag(value("include_leases")), summary: flag(value("summary")) };
    let metadata: Vec<(&str, &str)> =
        query.iter().filter_map(|(name, value)| Some((name.strip_prefix("metadata.")?, value.as_str()))).collect();
    let listed = |wanted: Option<&str>, value: &str| {
        wanted.is_none_or(|list| list.is_empty() || list.split(',').any(|one| one.trim() == value))
    };
    let machines = api.control.machines(&app.name, flag(value("include_deleted"))).await?;
    let shown: Vec<Value> = machines
        .iter()
        .filter(|seen| listed(value("region"), seen.view.region.as_str()))
        .filter(|seen| listed(value("state"), seen.view.state.as_str()))
        .filter(|seen| {
            metadata.iter().all(|(key, wanted)| seen.view.config.metadata.get(*key).is_some_and(|has| has == wanted))
        })
        .map(|seen| machine(&seen.view, host_status(seen), details))
        .collect();
    Ok(Json(shown.into()))
}

#[derive(Deserialize)]
pub struct ShowQuery {
    version: Option<String>,
    include_leases: Option<String>,
}

pub async fn show(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): At,
    Query(query): Query<ShowQuery>,
) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let seen = api.control.machine(&app.name, machine_id(&id)?).await?;
    if let Some(version) = query.version.filter(|version| *version != seen.view.version.to_string()) {
        let earlier = seen.view.earlier_versions.iter().find(|earlier| earlier.version.to_string() == version);
        let earlier =
            earlier.ok_or_else(|| ApiError::not_found(format!("machine not found: {id} has no version {version}")))?;
        return Ok(Json(view::replaced(&seen.view, earlier)));
    }
    let details = Details { lease: flag(query.include_leases.as_deref()), ..Details::default() };
    Ok(Json(machine(&seen.view, host_status(&seen), details)))
}

#[derive(Deserialize)]
pub struct EventsQuery {
    limit: Option<usize>,
}

pub async fn events(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): At,
    Query(query): Query<EventsQuery>,
) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let seen = api.control.machine(&app.name, machine_id(&id)?).await?;
    let limit = query.limit.unwrap_or(20).min(50);
    Ok(Json(json!(seen.view.events.iter().take(limit).collect::<Vec<_>>())))
}

pub async fn versions(State(api): State<Api>, auth: Auth, Path((app, id)): At) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let seen = api.control.machine(&app.name, machine_id(&id)?).await?;
    let mut versions = vec![json!({"version": seen.view.version, "user_config": view::config(&seen.view.config)})];
    versions.extend(
        seen.view
            .earlier_versions
            .iter()
            .map(|earlier| json!({"version": earlier.version, "user_config": view::config(&earlier.config)})),
    );
    Ok(Json(versions.into()))
}

pub async fn processes(State(api): State<Api>, auth: Auth, Path((app, id)): At) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let id = machine_id(&id)?;
    let record = api.control.machine_record(&app.name, id).await?;
    let mut request = tonic::Request::new(MachineRequest { machine: id.to_string() });
    request.set_timeout(Duration::from_secs(15));
    let reply = api.control.directory.worker(&record.node)?.processes(request).await?.into_inner();
    let rows: Vec<ProcessRow> =
        serde_json::from_slice(&reply.processes_json).map_err(atoll_control::ControlError::internal)?;
    Ok(Json(
        rows.iter()
            .map(|row| {
                json!({
                    "pid": row.pid,
                    "stime": row.stime,
                    "rtime": row.rtime,
                    "command": row.command,
                    "directory": row.directory,
                    "cpu": row.cpu,
                    "rss": row.rss,
                    "listen_sockets": [],
                })
            })
            .collect(),
    ))
}

/// States that may be waited for.
const WAITABLE: &[&str] = &["started", "stopped", "suspended", "destroyed", "failed", "settled"];
const MAX_WAIT_SECONDS: u64 = 60;

pub async fn wait(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): At,
    RawQuery(query): RawQuery,
) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let wait = parse_wait(&pairs(query.as_deref()))?;
    let reply = api.control.machine_wait(&app.name, machine_id(&id)?, wait).await?;
    Ok(Json(json!({"ok": true, "state": reply.state, "version": reply.version, "event_id": reply.event})))
}

fn parse_wait(query: &[(String, String)]) -> ApiResult<WaitRequest> {
    let mut states: Vec<String> = Vec::new();
    let mut others: HashMap<&str, &str> = HashMap::new();
    for (name, value) in query {
        match name.as_str() {
            "state" => states.extend(value.split(',').filter(|state| !state.is_empty()).map(str::to_owned)),
            other => {
                others.insert(other, value);
            }
        }
    }
    if states.is_empty() {
        states.push(MachineState::Started.to_string());
    }
    if let Some(bad) = states.iter().find(|state| !WAITABLE.contains(&state.as_str())) {
        return Err(ApiError::invalid(format!(
            "invalid_argument: cannot wait for state {bad:?}; use one of {}",
            WAITABLE.join(", ")
        )));
    }
    let seconds = match others.get("timeout").copied().unwrap_or_default().trim_end_matches('s') {
        "" => MAX_WAIT_SECONDS,
        text => text
            .parse::<u64>()
            .map_err(|_| ApiError::invalid("invalid_argument: timeout must be a whole number of seconds"))?
            .clamp(1, MAX_WAIT_SECONDS),
    };
    let version = others.get("version").or_else(|| others.get("instance_id")).copied().unwrap_or_default();
    Ok(WaitRequest {
        machine: String::new(),
        states,
        version: version.to_owned(),
        from_event: others.get("from_event_id").copied().unwrap_or_default().to_owned(),
        timeout_ms: seconds * 1000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> ApiResult<WaitRequest> {
        parse_wait(&pairs(Some(query)))
    }

    #[test]
    fn waits_are_read_in_every_spelling() {
        let wait = parsed("state=stopped&state=destroyed&timeout=60s&instance_id=01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        assert_eq!(wait.states, ["stopped", "destroyed"]);
        assert_eq!(wait.timeout_ms, 60_000);
        assert_eq!(wait.version, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!(parsed("").unwrap().states, ["started"]);
        assert_eq!(parsed("state=started,failed&timeout=999").unwrap().timeout_ms, 60_000);
        assert!(parsed("state=asleep").is_err());
        assert!(parsed("timeout=soon").is_err());
    }

    #[test]
    fn query_values_are_decoded() {
        assert_eq!(
            pairs(Some("metadata.a%20b=c+d&x")),
            [("metadata.a b".into(), "c d".into()), ("x".into(), String::new())]
        );
    }
}
