//! What is recorded of a machine, and the writes that change it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::{Row, SqliteConnection};

use atoll_model::machine::{CheckResult, Event, Lease};
use atoll_model::{MachineId, MachineVersion};
use atoll_rpc::contract::{EarlierVersion, LaunchBundle};

use super::StoreError;
use crate::machine::step::Phase;

/// The durable state of a machine beside its bundle. Written whole at each change; fields are only
/// ever added, with defaults.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MachineState {
    pub phase: Phase,
    pub cordoned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The machine's number on this node; decides address and interface names.
    pub slot: u32,
    /// Unix milliseconds of the last change that a caller can see, and of the last change of state.
    pub updated_at_ms: u64,
    pub changed_at_ms: u64,
    /// Of the present or last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Unix milliseconds of restarts by policy, oldest first; only those of the policy's window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<u64>,
    #[serde(default)]
    pub restart_count: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// Last results of checks and readiness by service: an adopted machine goes on with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckResult>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ready: Vec<bool>,
    /// Unix milliseconds at which the machine was destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed_at_ms: Option<u64>,
}

/// How the last run ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastExit {
    pub boot_id: String,
    pub code: i32,
    pub at_ms: u64,
    pub oom_killed: bool,
}

/// A multi-step change that was begun, with the names of all it makes on the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    pub kind: &'static str,
    pub names: serde_json::Value,
}

/// One durable change. Each is idempotent.
#[derive(Clone, PartialEq, Debug)]
pub enum Write {
    State {
        machine: MachineId,
        state: Box<MachineState>,
    },
    /// A new version, or changed metadata of the present one.
    Bundle {
        machine: MachineId,
        bundle: Box<LaunchBundle>,
        sealed: Vec<u8>,
    },
    Event {
        machine: MachineId,
        event: Box<Event>,
        keep: usize,
    },
    Superseded {
        machine: MachineId,
        version: Box<EarlierVersion>,
        keep: usize,
    },
    Intent {
        machine: MachineId,
        intent: Intent,
        at_ms: u64,
    },
    Outcome {
        machine: MachineId,
        kind: &'static str,
        outcome: String,
        at_ms: u64,
    },
    /// Destroyed: nothing secret stays.
    ForgetSecrets {
        machine: MachineId,
    },
    /// The tombstone's time is over.
    Purge {
        machine: MachineId,
    },
}

/// All that is known of a machine at the start.
#[derive(Debug)]
pub struct Recorded {
    pub state: MachineState,
    /// Without secret values.
    pub bundle: LaunchBundle,
    pub sealed: Vec<u8>,
    /// Oldest first.
    pub events: Vec<Event>,
    /// Newest first.
    pub versions: Vec<EarlierVersion>,
    /// Kinds of intents without an outcome.
    pub open_intents: Vec<String>,
}

impl Write {
    /// Performs the write inside the caller's transaction.
    pub(super) async fn apply(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        match self {
            Self::State { machine, state } => {
                // A state without a bundle has no row yet: its first bundle is in the same job, before it.
                sqlx::query("UPDATE machine SET state = ? WHERE id = ?")
                    .bind(json(state))
                    .bind(machine.to_string())
                    .execute(connection)
                    .await?;
            }
            Self::Bundle { machine, bundle, sealed } => {
                sqlx::query(
                    "INSERT INTO machine (id, state, bundle, sealed) VALUES (?1, '{}', ?2, ?3)
                     ON CONFLICT (id) DO UPDATE SET bundle = ?2, sealed = ?3",
                )
                .bind(machine.to_string())
                .bind(json(bundle))
                .bind(sealed)
                .execute(connection)
                .await?;
            }
            Self::Event { machine, event, keep } => {
                sqlx::query("INSERT OR REPLACE INTO event (machine, id, body) VALUES (?, ?, ?)")
                    .bind(machine.to_string())
                    .bind(event.id.to_string())
                    .bind(json(event))
                    .execute(&mut *connection)
                    .await?;
                keep_newest(connection, EVENTS_TO_DROP, machine, *keep).await?;
            }
            Self::Superseded { machine, version, keep } => {
                sqlx::query("INSERT OR REPLACE INTO version (machine, version, config) VALUES (?, ?, ?)")
                    .bind(machine.to_string())
                    .bind(version.version.to_string())
                    .bind(json(&version.config))
                    .execute(&mut *connection)
                    .await?;
                keep_newest(connection, VERSIONS_TO_DROP, machine, *keep).await?;
            }
            Self::Intent { machine, intent, at_ms } => {
                sqlx::query("INSERT OR REPLACE INTO intent (machine, kind, names, opened_at_ms) VALUES (?, ?, ?, ?)")
                    .bind(machine.to_string())
                    .bind(intent.kind)
                    .bind(intent.names.to_string())
                    .bind(*at_ms as i64)
                    .execute(connection)
                    .await?;
            }
            Self::Outcome { machine, kind, outcome, at_ms } => {
                sqlx::query("UPDATE intent SET outcome = ?, closed_at_ms = ? WHERE machine = ? AND kind = ?")
                    .bind(outcome)
                    .bind(*at_ms as i64)
                    .bind(machine.to_string())
                    .bind(*kind)
                    .execute(connection)
                    .await?;
            }
            Self::ForgetSecrets { machine } => {
                sqlx::query("UPDATE machine SET sealed = NULL WHERE id = ?")
                    .bind(machine.to_string())
                    .execute(connection)
                    .await?;
            }
            Self::Purge { machine } => {
                for statement in [
                    "DELETE FROM machine WHERE id = ?",
                    "DELETE FROM event WHERE machine = ?",
                    "DELETE FROM version WHERE machine = ?",
                    "DELETE FROM intent WHERE machine = ?",
                ] {
                    sqlx::query(statement).bind(machine.to_string()).execute(&mut *connection).await?;
                }
            }
        }
        Ok(())
    }

    /// A name for crash tests, such as `state:started`.
    pub(super) fn label(&self) -> String {
        match self {
            Self::State { state, .. } => format!("state:{}", state.phase.state()),
            Self::Bundle { .. } => "bundle".into(),
            Self::Event { event, .. } => format!("event:{}", event.event_type),
            Self::Superseded { .. } => "superseded".into(),
            Self::Intent { intent, .. } => format!("intent:{}", intent.kind),
            Self::Outcome { kind, .. } => format!("outcome:{kind}"),
            Self::ForgetSecrets { .. } => "forget-secrets".into(),
            Self::Purge { .. } => "purge".into(),
        }
    }
}

const EVENTS_TO_DROP: &str = "DELETE FROM event WHERE machine = ?1 AND id <= (
    SELECT id FROM event WHERE machine = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
const VERSIONS_TO_DROP: &str = "DELETE FROM version WHERE machine = ?1 AND version <= (
    SELECT version FROM version WHERE machine = ?1 ORDER BY version DESC LIMIT 1 OFFSET ?2)";

async fn keep_newest(
    connection: &mut SqliteConnection,
    statement: &'static str,
    machine: &MachineId,
    keep: usize,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).bind(machine.to_string()).bind(keep as i64).execute(connection).await?;
    Ok(())
}

fn json(value: &impl Serialize) -> String {
    // Records hold only maps with text keys, so this cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// Reads all machines. One that cannot be read is an error by itself; the others stand.
pub(super) async fn load(connection: &mut SqliteConnection) -> Result<Vec<Result<Recorded, StoreError>>, StoreError> {
    let fail = |source| StoreError::query("read", source);
    let mut events: HashMap<String, Vec<Event>> = HashMap::new();
    for row in sqlx::query("SELECT machine, body FROM event ORDER BY machine, id")
        .fetch_all(&mut *connection)
        .await
        .map_err(fail)?
    {
        // An unreadable event is history, not state: it is left out.
        if let Ok(event) = serde_json::from_str(row.get::<&str, _>(1)) {
            events.entry(row.get(0)).or_default().push(event);
        }
    }
    let mut versions: HashMap<String, Vec<EarlierVersion>> = HashMap::new();
    for row in sqlx::query("SELECT machine, version, config FROM version ORDER BY machine, version DESC")
        .fetch_all(&mut *connection)
        .await
        .map_err(fail)?
    {
        let version = row.get::<&str, _>(1).parse::<MachineVersion>();
        if let (Ok(version), Ok(config)) = (version, serde_json::from_str(row.get::<&str, _>(2))) {
            versions.entry(row.get(0)).or_default().push(EarlierVersion { version, config });
        }
    }
    let mut intents: HashMap<String, Vec<String>> = HashMap::new();
    for row in sqlx::query("SELECT machine, kind FROM intent WHERE outcome IS NULL")
        .fetch_all(&mut *connection)
        .await
        .map_err(fail)?
    {
        intents.entry(row.get(0)).or_default().push(row.get(1));
    }

    let rows =
        sqlx::query("SELECT id, state, bundle, sealed FROM machine").fetch_all(connection).await.map_err(fail)?;
    let machines = rows.into_iter().map(|row| {
        let id: String = row.get(0);
        let unreadable = |error: serde_json::Error| StoreError::Unreadable {
            what: format!("machine {id}"),
            reason: error.to_string(),
        };
        Ok(Recorded {
            state: serde_json::from_str(row.get::<&str, _>(1)).map_err(unreadable)?,
            bundle: serde_json::from_str(row.get::<&str, _>(2)).map_err(unreadable)?,
            sealed: row.get::<Option<Vec<u8>>, _>(3).unwrap_or_default(),
            events: events.remove(&id).unwrap_or_default(),
            versions: versions.remove(&id).unwrap_or_default(),
            open_intents: intents.remove(&id).unwrap_or_default(),
        })
    });
    Ok(machines.collect())
}
