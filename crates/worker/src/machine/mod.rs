//! One machine, owned by one task. Requests enter its bounded queue; [`step`] decides; [`effects`]
//! act; what was decided is recorded before a caller hears of it; everybody else reads the latest
//! [`Snapshot`].

mod acting;
pub mod effects;
pub mod events;
mod publish;
mod requests;
pub mod restart;
pub mod step;
mod task;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use atoll_driver::Running;
use atoll_model::machine::Lease;
use atoll_model::policy::NetworkLimits;
use atoll_model::{MachineId, MachineState, MachineVersion};
use atoll_rpc::contract::{LaunchBundle, MachineView};

use crate::calls::{LeaseAsk, SetMetadata, StopOptions, Usage};
use crate::error::WorkerError;
use crate::health::Health;
use step::Phase;

pub use task::{Context, Origin, spawn};

/// Requests that may wait for one machine.
const QUEUE: usize = 64;

/// What everybody may read of a machine without asking its task.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub view: MachineView,
    pub phase: Phase,
    pub health: Health,
    /// Why the last start failed or the last run ended, for those who wait for it.
    pub last_failure: Option<String>,
    /// Starts that failed or runs that ended, since the agent began.
    pub failures: u64,
}

/// What is asked of a machine's task.
pub enum Ask {
    Start,
    /// A request waits for it. Allowed while the machine is stopping.
    Wake,
    Stop(StopOptions),
    Suspend,
    /// Stop or suspend, if this version is still up.
    Idle {
        version: MachineVersion,
        suspend: bool,
    },
    Restart {
        options: StopOptions,
        force: bool,
    },
    Update {
        bundle: Box<LaunchBundle>,
        sealed: Vec<u8>,
        expected_version: Option<MachineVersion>,
    },
    Destroy {
        force: bool,
    },
    Cordon(bool),
    Lease(LeaseAsk),
    Metadata(SetMetadata),
    /// What network policies come to from now on.
    Limits(NetworkLimits),
    /// The running machine and its bundle, to use its processes.
    Process,
    /// What the node's edge knows of it.
    Usage(Usage),
}

/// A task's answer.
pub enum Answer {
    /// The state before.
    Changed(MachineState),
    /// The machine as it was when the update was recorded.
    Updated(Box<MachineView>),
    Lease(Lease),
    /// With the slot.
    Process(Arc<dyn Running>, Sealed, u32),
    Done,
}

/// A bundle as it is kept: readable without secrets, sealed with them.
#[derive(Clone)]
pub struct Sealed {
    pub bundle: Arc<LaunchBundle>,
    pub sealed: Arc<[u8]>,
}

/// One request with its way back.
pub struct Envelope {
    pub ask: Ask,
    pub lease_nonce: String,
    /// `user` or `flyd`, for the event list.
    pub source: String,
    pub reply: oneshot::Sender<Result<Answer, WorkerError>>,
}

/// The way to a machine's task.
#[derive(Clone)]
pub struct Handle {
    pub id: MachineId,
    inbox: mpsc::Sender<Envelope>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Handle {
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// Asks and waits for the answer.
    pub async fn ask(&self, ask: Ask, lease_nonce: &str, source: &str) -> Result<Answer, WorkerError> {
        let (reply, answer) = oneshot::channel();
        let envelope = Envelope { ask, lease_nonce: lease_nonce.to_owned(), source: source.to_owned(), reply };
        let unavailable = |reason| WorkerError::Unavailable { machine: self.id, reason };
        self.inbox.try_send(envelope).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => unavailable("too many requests wait for it"),
            mpsc::error::TrySendError::Closed(_) => unavailable("the agent is ending"),
        })?;
        answer.await.unwrap_or_else(|_| Err(unavailable("the agent is ending")))
    }

    /// Asks without waiting; what cannot be queued is dropped, as a later one replaces it.
    pub fn tell(&self, ask: Ask) {
        let (reply, _) = oneshot::channel();
        let envelope = Envelope { ask, lease_nonce: String::new(), source: String::new(), reply };
        // A full queue drops the message: see above.
        let _ = self.inbox.try_send(envelope);
    }
}
