//! The seam to the catalogue: what the edges route by.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atoll_model::row::MachineRow;
use atoll_model::{MachineId, RowKey};

/// Why a barrier was not closed; for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct BarrierFailure {
    pub reason: String,
}

/// The catalogue as deploys need it.
#[async_trait]
pub trait Barrier: Send + Sync {
    /// Returns when every leased edge routes by the row as it is now, or a later one.
    async fn wait(&self, key: RowKey, limit: Duration) -> Result<(), BarrierFailure>;

    /// A machine's row as control's hub has it.
    fn machine_row(&self, id: MachineId) -> Option<Arc<MachineRow>>;
}
