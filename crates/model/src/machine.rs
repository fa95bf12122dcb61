//! A machine's states and which calls are legal in which, after the Machines API.
//!
//! ```text
//!              ┌───────── restart policy ─────────┐
//!              ▼                                  │
//! created ─► starting ─► started ─► stopping ─► stopped ─► destroying ─► destroyed
//!    │           │          │                     ▲
//!    │           └─► failed └─► suspending ─► suspended
//!    └──(skip_launch)─────────────────────────────┘
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{EventId, MachineVersion};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// Recorded; its image and network are being prepared.
    Created,
    Starting,
    Started,
    Stopping,
    Restarting,
    Stopped,
    Suspending,
    Suspended,
    /// An update is swapping one version for the next.
    Replacing,
    Failed,
    Destroying,
    Destroyed,
}

impl MachineState {
    /// A state that ends by itself; `settled` waits for any other.
    pub fn is_transient(self) -> bool {
        use MachineState::*;
        matches!(self, Starting | Stopping | Restarting | Suspending | Replacing | Destroying)
    }

    /// Clients count a machine as live until it is being destroyed.
    pub fn is_active(self) -> bool {
        !matches!(self, Self::Destroying | Self::Destroyed)
    }

    /// A request may start a machine in this state.
    pub fn is_startable(self) -> bool {
        matches!(self, Self::Stopped | Self::Suspended)
    }

    pub fn as_str(self) -> &'static str {
        use MachineState::*;
        match self {
            Created => "created",
            Starting => "starting",
            Started => "started",
            Stopping => "stopping",
            Restarting => "restarting",
            Stopped => "stopped",
            Suspending => "suspending",
            Suspended => "suspended",
            Replacing => "replacing",
            Failed => "failed",
            Destroying => "destroying",
            Destroyed => "destroyed",
        }
    }
}

impl fmt::Display for MachineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a caller asks of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Start,
    Stop,
    Suspend,
    Restart,
    Update,
    Destroy {
        force: bool,
    },
    /// exec, ps and signal need a running machine.
    UseProcess,
}

/// Whether a call may go ahead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Legality {
    Allowed,
    /// Nothing to do; answered as success.
    AlreadyThere,
    /// HTTP 412 with this text.
    Refused(String),
    /// HTTP 409 with this text.
    Conflict(String),
}

/// Whether `call` is legal in `state`; texts are those that clients of the API match on.
pub fn legality(call: Call, state: MachineState) -> Legality {
    use Legality::*;
    use MachineState::*;
    let cannot = |verb: &str| Refused(format!("unable to {verb} machine from current state: '{state}'"));
    match (call, state) {
        (Call::Destroy { .. }, Destroying | Destroyed) => AlreadyThere,
        (_, Destroying | Destroyed) => cannot(call.verb()),

        (Call::Start, Started) => AlreadyThere,
        (Call::Start, Created | Stopped | Suspended | Failed) => Allowed,
        (Call::Start, Stopping | Suspending) => Refused("machine still active, refusing to start".into()),
        (Call::Start, Replacing) => Refused("machine getting replaced, refusing to start".into()),
        (Call::Start, _) => cannot("start"),

        (Call::Stop, Stopping | Stopped) => AlreadyThere,
        (Call::Stop, Replacing) => cannot("stop"),
        (Call::Stop, _) => Allowed,

        (Call::Suspend, Started) => Allowed,
        (Call::Suspend, Suspending | Suspended) => AlreadyThere,
        (Call::Suspend, _) => cannot("suspend"),

        (Call::Restart, Starting | Started | Stopped | Suspended | Failed) => Allowed,
        (Call::Restart, _) => cannot("restart"),

        (Call::Update, Replacing) => Conflict("aborted: machine update failed due to concurrent update".into()),
        (Call::Update, _) => Allowed,

        (Call::Destroy { force: true }, _) => Allowed,
        (Call::Destroy { force: false }, Created | Stopped | Suspended | Failed) => Allowed,
        (Call::Destroy { force: false }, _) => {
            Refused("unable to destroy machine, not currently stopped, suspended, failed or created".into())
        }

        (Call::UseProcess, Started) => Allowed,
        (Call::UseProcess, _) => cannot("reach"),
    }
}

impl Call {
    fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Suspend => "suspend",
            Self::Restart => "restart",
            Self::Update => "update",
            Self::Destroy { .. } => "destroy",
            Self::UseProcess => "reach",
        }
    }
}

/// One entry of a machine's history, newest first in lists.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Event {
    pub id: EventId,
    #[serde(rename = "type")]
    pub event_type: String,
    pub status: String,
    /// `user` (an API caller) or `flyd` (the node), as clients expect.
    pub source: String,
    /// Unix milliseconds.
    pub timestamp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub request: Option<serde_json::Value>,
}

/// How a machine's main process ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExitEvent {
    pub exit_code: i32,
    /// RFC 3339.
    pub exited_at: String,
    pub guest_exit_code: i32,
    /// -1 when none.
    pub guest_signal: i32,
    #[serde(default)]
    pub guest_error: String,
    /// -1 when none.
    pub signal: i32,
    #[serde(default)]
    pub error: String,
    pub oom_killed: bool,
    pub requested_stop: bool,
    pub restarting: bool,
}

/// A check's result as the API shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckResult {
    pub name: String,
    pub status: crate::service::CheckStatus,
    pub output: String,
    /// RFC 3339 with milliseconds; when the status last changed.
    pub updated_at: String,
}

/// A lease: while it lives, only its holder may change the machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    pub nonce: String,
    /// Unix seconds.
    pub expires_at: u64,
    pub owner: String,
    #[serde(default)]
    pub description: String,
    pub version: MachineVersion,
}

#[cfg(test)]
mod tests {
    use super::*;
    use MachineState::*;

    #[test]
    fn starting_a_started_machine_is_no_error() {
        assert_eq!(legality(Call::Start, Started), Legality::AlreadyThere);
        assert_eq!(
            legality(Call::Start, Stopping),
            Legality::Refused("machine still active, refusing to start".into())
        );
    }

    #[test]
    fn only_force_destroys_a_running_machine() {
        assert!(matches!(legality(Call::Destroy { force: false }, Started), Legality::Refused(_)));
        assert_eq!(legality(Call::Destroy { force: true }, Started), Legality::Allowed);
        assert_eq!(legality(Call::Destroy { force: false }, Destroyed), Legality::AlreadyThere);
    }

    #[test]
    fn a_destroyed_machine_takes_no_other_call() {
        for call in [Call::Start, Call::Stop, Call::Suspend, Call::Restart, Call::Update, Call::UseProcess] {
            assert!(matches!(legality(call, Destroyed), Legality::Refused(_)), "{call:?}");
        }
    }
}
