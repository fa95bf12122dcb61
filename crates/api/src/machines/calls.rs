//! Calls that change a machine's state. The worker judges whether they are legal.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use atoll_identity::Action;
use atoll_model::GoDuration;
use atoll_rpc::proto::worker::change_request::Change;
use atoll_rpc::proto::worker::{Cordon, Restart, SendSignal, Start, Stop, Suspend};

use crate::Api;
use crate::answer::{Done, done};
use crate::auth::{Auth, machine_id};
use crate::body::{Body, Flag, Nonce, OptionalBody, Params};
use crate::error::{ApiError, ApiResult};

type At = Path<(String, String)>;

async fn change(api: &Api, auth: &Auth, at: &(String, String), nonce: &Nonce, change: Change) -> ApiResult<String> {
    let app = auth.app(api, &at.0, Action::Change).await?;
    let (previous, _) = api.control.machine_change(&app.name, machine_id(&at.1)?, change, &nonce.0).await?;
    Ok(previous)
}

#[derive(Serialize, ToSchema)]
pub struct Started {
    previous_state: String,
    /// Machines stay where they are.
    migrated: bool,
    new_host: String,
}

pub async fn start(State(api): State<Api>, auth: Auth, Path(at): At, nonce: Nonce) -> ApiResult<Json<Started>> {
    let previous = change(&api, &auth, &at, &nonce, Change::Start(Start {})).await?;
    Ok(Json(Started { previous_state: previous, migrated: false, new_host: String::new() }))
}

pub async fn suspend(State(api): State<Api>, auth: Auth, Path(at): At, nonce: Nonce) -> ApiResult<Json<Done>> {
    change(&api, &auth, &at, &nonce, Change::Suspend(Suspend {})).await?;
    Ok(done())
}

pub async fn cordon(State(api): State<Api>, auth: Auth, Path(at): At, nonce: Nonce) -> ApiResult<Json<Done>> {
    change(&api, &auth, &at, &nonce, Change::Cordon(Cordon { cordoned: true })).await?;
    Ok(done())
}

pub async fn uncordon(State(api): State<Api>, auth: Auth, Path(at): At, nonce: Nonce) -> ApiResult<Json<Done>> {
    change(&api, &auth, &at, &nonce, Change::Cordon(Cordon { cordoned: false })).await?;
    Ok(done())
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

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
#[schema(as = StopRequest)]
pub struct StopBody {
    signal: Option<String>,
    /// Such as `10s`; bare seconds and an integer of nanoseconds are read as well.
    #[schema(value_type = Option<String>)]
    timeout: Option<Value>,
}

pub async fn stop(
    State(api): State<Api>,
    auth: Auth,
    Path(at): At,
    nonce: Nonce,
    OptionalBody(body): OptionalBody<StopBody>,
) -> ApiResult<Json<Done>> {
    let stop = Stop { signal: body.signal.unwrap_or_default(), timeout_ms: timeout_ms(body.timeout.as_ref())? };
    change(&api, &auth, &at, &nonce, Change::Stop(stop)).await?;
    Ok(done())
}

#[derive(Deserialize, ToSchema)]
pub struct RestartQuery {
    /// Such as `10s`.
    timeout: Option<String>,
    signal: Option<String>,
    /// Kill without asking first.
    #[serde(default)]
    #[schema(value_type = bool)]
    force_stop: Flag,
}

pub async fn restart(
    State(api): State<Api>,
    auth: Auth,
    Path(at): At,
    Params(query): Params<RestartQuery>,
    nonce: Nonce,
    OptionalBody(body): OptionalBody<StopBody>,
) -> ApiResult<Json<Done>> {
    let timeout = query.timeout.map(Value::String).or(body.timeout);
    let restart = Restart {
        signal: query.signal.or(body.signal).unwrap_or_default(),
        timeout_ms: timeout_ms(timeout.as_ref())?,
        force: query.force_stop.0,
    };
    change(&api, &auth, &at, &nonce, Change::Restart(restart)).await?;
    Ok(done())
}

#[derive(Deserialize, Default, ToSchema)]
#[schema(as = SignalRequest)]
pub struct SignalBody {
    /// Its name, such as `SIGTERM`; its Linux number is read as well.
    #[serde(default)]
    #[schema(value_type = String, required)]
    signal: Value,
}

pub async fn signal(
    State(api): State<Api>,
    auth: Auth,
    Path(at): At,
    nonce: Nonce,
    Body(body): Body<SignalBody>,
) -> ApiResult<Json<Done>> {
    let signal = signal_number(&body.signal).ok_or_else(|| {
        ApiError::invalid(format!(
            "invalid_argument: signal {} is none of {}",
            body.signal,
            SIGNALS.map(|(name, _)| name).join(", ")
        ))
    })?;
    change(&api, &auth, &at, &nonce, Change::Signal(SendSignal { signal })).await?;
    Ok(done())
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

#[derive(Deserialize, ToSchema)]
pub struct DestroyQuery {
    /// A running machine too.
    #[serde(default)]
    #[schema(value_type = bool)]
    force: Flag,
    /// As two clients spell `force`.
    #[serde(default)]
    #[schema(value_type = bool)]
    kill: Flag,
}

pub async fn destroy(
    State(api): State<Api>,
    auth: Auth,
    Path(at): At,
    Params(query): Params<DestroyQuery>,
    nonce: Nonce,
) -> ApiResult<Json<Done>> {
    let app = auth.app(&api, &at.0, Action::Change).await?;
    let force = query.force.0 || query.kill.0;
    api.control.machine_destroy(&app.name, machine_id(&at.1)?, force, &nonce.0).await?;
    Ok(done())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
