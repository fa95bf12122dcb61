//! Calls that change a machine's state. The worker judges whether they are legal.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use atoll_identity::Action;
use atoll_model::GoDuration;
use atoll_rpc::proto::worker::change_request::Change;
use atoll_rpc::proto::worker::{Cordon, Restart, SendSignal, Start, Stop, Suspend};

use super::nonce;
use crate::Api;
use crate::auth::{Auth, machine_id};
use crate::body::{Body, flag};
use crate::error::{ApiError, ApiResult};

type At = Path<(String, String)>;

async fn change(
    api: &Api,
    auth: &Auth,
    at: &(String, String),
    headers: &HeaderMap,
    change: Change,
) -> ApiResult<String> {
    let app = auth.app(api, &at.0, Action::Change).await?;
    let (previous, _) = api.control.machine_change(&app.name, machine_id(&at.1)?, change, &nonce(headers)).await?;
    Ok(previous)
}

fn ok() -> Json<Value> {
    Json(json!({"ok": true}))
}

pub async fn start(State(api): State<Api>, auth: Auth, Path(at): At, headers: HeaderMap) -> ApiResult<Json<Value>> {
    let previous = change(&api, &auth, &at, &headers, Change::Start(Start {})).await?;
    Ok(Json(json!({"previous_state": previous, "migrated": false, "new_host": ""})))
}

pub async fn suspend(State(api): State<Api>, auth: Auth, Path(at): At, headers: HeaderMap) -> ApiResult<Json<Value>> {
    change(&api, &auth, &at, &headers, Change::Suspend(Suspend {})).await?;
    Ok(ok())
}

pub async fn cordon(State(api): State<Api>, auth: Auth, Path(at): At, headers: HeaderMap) -> ApiResult<Json<Value>> {
    change(&api, &auth, &at, &headers, Change::Cordon(Cordon { cordoned: true })).await?;
    Ok(ok())
}

pub async fn uncordon(State(api): State<Api>, auth: Auth, Path(at): At, headers: HeaderMap) -> ApiResult<Json<Value>> {
    change(&api, &auth, &at, &headers, Change::Cordon(Cordon { cordoned: false })).await?;
    Ok(ok())
}

/// Clients write timeouts as Go durations, as bare seconds, and `0s` for the machine's own.
fn timeout_ms(value: Option<&Value>) -> ApiResult<u64> {
    let invalid = || ApiError::invalid("invalid_argument: timeout must be a duration such as \"10s\"");
    match value {
        None | Some(Value::Null) => Ok(0),
        Some(Value::String(text)) if text.is_empty() => Ok(0),
        Some(Value::String(text)) if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse::<u64>().map(|seconds| seconds.saturating_mul(1000)).map_err(|_| invalid())
        }
        Some(Value::String(text)) => {
            let GoDuration(duration) = text.parse().map_err(|_| invalid())?;
            u64::try_from(duration.as_millis()).map_err(|_| invalid())
        }
        Some(Value::Number(nanoseconds)) => nanoseconds.as_u64().map(|ns| ns / 1_000_000).ok_or_else(invalid),
        Some(_) => Err(invalid()),
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct StopBody {
    signal: Option<String>,
    timeout: Option<Value>,
}

pub async fn stop(
    State(api): State<Api>,
    auth: Auth,
    Path(at): At,
    headers: HeaderMap,
    Body(body): Body<StopBody>,
) -> ApiResult<Json<Value>> {
    let stop = Stop { signal: body.signal.unwrap_or_default(), timeout_ms: timeout_ms(body.timeout.as_ref())? };
    change(&api, &auth, &at, &headers, Change::Stop(stop)).await?;
    Ok(ok())
}

#[derive(Deserialize)]
pub struct RestartQuery {
    timeout: Option<String>,
    signal: Option<String>,
    force_stop: Option<String>,
}

pub async fn restart(
    State(api): State<Api>,
    auth: Auth,
    Path(at): At,
    Query(query): Query<RestartQuery>,
    headers: HeaderMap,
    Body(body): Body<StopBody>,
) -> ApiResult<Json<Value>> {
    let timeout = query.timeout.map(Value::String).or(body.timeout);
    let restart = Restart {
        signal: query.signal.or(body.signal).unwrap_or_default(),
        timeout_ms: timeout_ms(timeout.as_ref())?,
        force: flag(query.force_stop.as_deref()),
    };
    change(&api, &auth, &at, &headers, Change::Restart(restart)).await?;
    Ok(ok())
}

#[derive(Deserialize, Default)]
pub struct SignalBody {
    #[serde(default)]
    signal: Value,
}

pub async fn signal(
    State(api): State<Api>,
    auth: Auth,
    Path(at): At,
    headers: HeaderMap,
    Body(body): Body<SignalBody>,
) -> ApiResult<Json<Value>> {
    let signal = signal_number(&body.signal).ok_or_else(|| {
        ApiError::invalid(format!(
            "invalid_argument: signal {} is none of {}",
            body.signal,
            SIGNALS.map(|(name, _)| name).join(", ")
        ))
    })?;
    change(&api, &auth, &at, &headers, Change::Signal(SendSignal { signal })).await?;
    Ok(ok())
}

/// The signals of the Machines API, with their Linux numbers.
const SIGNALS: [(&str, i32); 14] = [
    ("SIGABRT", 6),
    ("SIGALRM", 14),
    ("SIGFPE", 8),
    ("SIGHUP", 1),
    ("SIGILL", 4),
    ("SIGINT", 2),
    ("SIGKILL", 9),
    ("SIGPIPE", 13),
    ("SIGQUIT", 3),
    ("SIGSEGV", 11),
    ("SIGTERM", 15),
    ("SIGTRAP", 5),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
];

/// By name, or by number as one client sends it.
fn signal_number(value: &Value) -> Option<i32> {
    let known = |wanted: i32| SIGNALS.iter().any(|(_, number)| *number == wanted).then_some(wanted);
    match value {
        Value::String(name) => SIGNALS.iter().find(|(known, _)| known == name).map(|(_, number)| *number),
        Value::Number(number) => known(i32::try_from(number.as_i64()?).ok()?),
        _ => None,
    }
}

#[derive(Deserialize)]
pub struct DestroyQuery {
    force: Option<String>,
    /// As two clients spell it.
    kill: Option<String>,
}

pub async fn destroy(
    State(api): State<Api>,
    auth: Auth,
    Path(at): At,
    Query(query): Query<DestroyQuery>,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let app = auth.app(&api, &at.0, Action::Change).await?;
    let force = flag(query.force.as_deref()) || flag(query.kill.as_deref());
    api.control.machine_destroy(&app.name, machine_id(&at.1)?, force, &nonce(&headers)).await?;
    Ok(ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_spelling() {
        for (value, expected) in [
            (json!(null), 0),
            (json!("0s"), 0),
            (json!("10s"), 10_000),
            (json!("60"), 60_000),
            (json!(5_000_000_000_u64), 5_000),
        ] {
            assert_eq!(timeout_ms(Some(&value)).unwrap(), expected, "{value}");
        }
        assert!(timeout_ms(Some(&json!("soon"))).is_err());
        assert!(timeout_ms(Some(&json!([1]))).is_err());
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal_number(&json!("SIGTERM")), Some(15));
        assert_eq!(signal_number(&json!(9)), Some(9));
        assert_eq!(signal_number(&json!("SIGFOO")), None);
        assert_eq!(signal_number(&json!(99)), None);
    }
}
