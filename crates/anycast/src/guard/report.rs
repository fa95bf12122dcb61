//! What the guard says of itself: a file of JSON in its folder, replaced when anything in it changes.

use serde::{Deserialize, Serialize};

use crate::announcements::{Reason, Routes};

/// The state of a guard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The guard's process; it stays the same through upgrades.
    pub pid: i32,
    /// Of the program that writes this.
    pub program: String,
    /// bird's process, while it runs.
    pub bird: Option<i32>,
    /// Whether real-time priority was granted; without it a busy machine gives false alarms.
    pub real_time: bool,
    /// Of the plan that is carried out; none before there was one.
    pub generation: Option<u64>,
    /// Why the plan's file is not carried out, if it is not.
    pub plan_refused: Option<String>,
    /// Why the edge's list of served addresses is not carried out, if it is not.
    #[serde(default)]
    pub served_refused: Option<String>,
    pub reason: Reason,
    /// Seconds since 1970.
    pub since: u64,
    /// What bird was told to announce, to whom.
    pub announced: Routes,
    pub sessions: Vec<Session>,
    /// The last changes of `announced`, the oldest first.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// A change of what is announced, for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Seconds since 1970.
    pub at: u64,
    pub reason: Reason,
    pub change: String,
}

/// As many changes are kept.
pub const MAX_CHANGES: usize = 200;

/// The session with an upstream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    pub upstream: String,
    pub established: bool,
    /// As bird says it.
    pub info: String,
}
