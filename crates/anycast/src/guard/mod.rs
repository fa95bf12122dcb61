//! The guard: bird's parent. It announces what its plan says as long as the local edge serves, withdraws when
//! it does not, and takes bird along when it dies.
//!
//! One thread, no runtime: bird's life is tied to the thread that started it, and the guard replaces itself by
//! executing a newer program in place, which only a process of one thread survives whole.
//!
//! - [`wanted`] is what shall be announced, [`run`] is the loop; everything that it decides is decided elsewhere in this crate
//! - [`daemon`] is bird as a process, [`probe`] asks the edge, [`files`] are plan, configuration and report
//! - [`upgrade`] is what a new program is told by the old one
//!
//! It must not know who plans, nor what a machine or an app is.

mod daemon;
pub mod files;
mod probe;
pub mod report;
mod run;
mod starving;
mod system;
mod upgrade;
mod wanted;

use std::io;
use std::path::PathBuf;

pub use run::run;
pub use upgrade::check;

/// Where Debian has the daemon.
pub const BIRD: &str = "/usr/sbin/bird";

/// The host that probes name: no app's, so that an edge can tell them from requests.
pub const PROBE_HOST: &str = "guard.atoll.invalid";

/// How a guard is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The plan; need not exist yet.
    pub plan: PathBuf,
    /// Addresses of apps that the local edge serves, as it writes them down; need not exist yet.
    pub served: Option<PathBuf>,
    /// For bird's configuration and socket, the last good plan and the report.
    pub folder: PathBuf,
    pub bird: PathBuf,
    /// A descriptor with what an older program left to this one.
    pub resume: Option<i32>,
}

/// Why a guard cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error("{attempted}")]
    System {
        attempted: String,
        #[source]
        source: io::Error,
    },
    #[error("another guard runs in {0}")]
    Taken(String),
    #[error("what the older program left cannot be read")]
    Resume(#[source] serde_json::Error),
    #[error("what the older program left is of version {0}, which this one does not know")]
    ResumeVersion(u32),
}

/// Adds what was attempted to an operating system's error.
trait Attempt<T> {
    fn attempting(self, what: impl FnOnce() -> String) -> Result<T, GuardError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempting(self, what: impl FnOnce() -> String) -> Result<T, GuardError> {
        self.map_err(|error| GuardError::System { attempted: what(), source: error.into() })
    }
}
