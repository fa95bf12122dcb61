//! The platform's records and what is done with them: apps, machines, nodes, secrets, images. Control
//! decides and remembers; workers do. Each change is recorded before a worker hears of it, so that a
//! kill in between leaves something to finish or unwind.
//!
//! Knows no HTTP shapes; the faces are in `api`.

mod addresses;
mod announcements;
mod apps;
mod audit;
mod authority;
mod challenges;
mod devices;
mod directory;
mod egress;
mod error;
mod images;
mod lists;
mod machines;
mod mesh;
mod names;
mod nodes;
mod policies;
mod prune;
mod reconcile;
mod registries;
mod rows;
mod secrets;
mod serve;
mod unknown;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use atoll_images::{ImageStore, Puller};
use atoll_keyring::Keyring;
use atoll_rpc::authorities::Authorities;
use atoll_rpc::tls::LiveIdentity;
use atoll_store::Store;

pub use addresses::{AddressWish, Family, PoolUse};
pub use audit::Changed;
pub use challenges::{Challenged, NewChallenge, challenged_host};
pub use directory::{Directory, KnownNode};
pub use egress::{EgressHeld, EgressWish};
pub use error::{ControlError, ControlResult, Kind};
pub use images::{Freed, ResolvedImage};
pub use lists::AppList;
pub use machines::{Held, MachineCreate, MachineUpdate, Seen};
pub use nodes::{JoinTokenMade, NodeOverview};
pub use prune::Pruned;
pub use rows::{Readers, RowSink};
pub use serve::ControlServices;
pub use unknown::{Observed, Unknown, UnknownMachine};

/// What control is made of; shared by its faces and its background work.
pub struct Control {
    pub store: Store,
    pub images: ImageStore,
    /// Its connections; logins are added from the records for each pull.
    pub puller: Puller,
    pub keyring: Arc<Keyring>,
    pub authority: Authorities,
    pub live: Arc<LiveIdentity>,
    pub directory: Directory,
    pub rows: Arc<dyn RowSink>,
    pub readers: Arc<dyn Readers>,
    pub settings: Settings,
    /// Machines that servers have and the records do not.
    pub unknown: Unknown,
}

/// Facts of this platform that records do not hold.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The platform's id.
    pub platform: String,
    pub app_domain: String,
    /// Where nodes reach control, for the text that a join token is printed with.
    pub advertised_rpc: String,
    /// How long records of what has ended are kept.
    pub retention: Duration,
    /// How long it is kept who changed what.
    pub audit_retention: Duration,
    /// Unix milliseconds; injected so that tests own the time.
    pub now_ms: fn() -> u64,
}

impl Control {
    pub fn now_ms(&self) -> u64 {
        (self.settings.now_ms)()
    }
}

impl Control {
    /// A consistent copy of the records, as a file's content.
    pub async fn backup(&self) -> ControlResult<Vec<u8>> {
        let dir = tempfile::tempdir().map_err(ControlError::internal)?;
        let file = dir.path().join("backup");
        self.store.backup(&file, self.now_ms()).await.map_err(ControlError::internal)?;
        tokio::task::spawn_blocking(move || {
            let content = std::fs::read(&file);
            drop(dir);
            content
        })
        .await
        .map_err(ControlError::internal)?
        .map_err(ControlError::internal)
    }
}
