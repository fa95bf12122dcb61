//! What a machine's task does to the world. Each function may be run again after a crash at any
//! point: names are derived from the machine, and removal is forced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atoll_driver::{DriverError, MachineSpec, ProcessSpec, Running};
use atoll_model::MachineId;
use atoll_model::address::MACHINE_DNS;
use atoll_rpc::contract::LaunchBundle;
use atoll_signals::{STAGES, moment_us, with_causes};

use super::Sealed;
use super::task::Context;
use crate::launch::{self, Place, Unlaunchable};
use crate::seams::{ImageError, NetworkError, NetworkPlan, PreparedImage, SealError};

/// Why a machine did not start.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("the image cannot be made ready")]
    Image(#[source] ImageError),
    #[error("the network cannot be made ready")]
    Network(#[source] NetworkError),
    #[error("the launch bundle cannot be opened")]
    Seal(#[source] SealError),
    #[error("the launch bundle cannot be read")]
    Bundle(#[source] serde_json::Error),
    #[error("the configuration cannot run")]
    Unlaunchable(#[source] Unlaunchable),
    #[error("the machine's folder cannot be made")]
    Folder(#[source] std::io::Error),
    #[error("the machine did not start")]
    Driver(#[source] DriverError),
    #[error("the start could not be recorded")]
    Record(#[source] crate::store::StoreError),
    #[error("the start was given up")]
    Cancelled,
}

impl LaunchError {
    /// Another try cannot help.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Seal(_)
                | Self::Bundle(_)
                | Self::Unlaunchable(_)
                | Self::Driver(DriverError::Unstartable { .. } | DriverError::Unsupported { .. })
        )
    }
}

/// The context string that binds a sealed bundle to its machine.
pub fn seal_context(machine: MachineId) -> String {
    format!("launch-bundle/{machine}")
}

/// Opens a bundle with its secrets.
pub fn open(context: &Context, sealed: &Sealed) -> Result<LaunchBundle, LaunchError> {
    let plain =
        context.deps.seal.open(&seal_context(sealed.bundle.machine), &sealed.sealed).map_err(LaunchError::Seal)?;
    serde_json::from_slice(&plain).map_err(LaunchError::Bundle)
}

pub async fn prepare(context: &Context, bundle: &LaunchBundle) -> Result<PreparedImage, ImageError> {
    context.deps.images.ensure(&bundle.image.reference, &bundle.image.digest).await
}

/// Image, network, processes. `cancelled` gives up while the image is fetched; later the start is
/// carried through, so that it can be undone as a whole.
pub async fn launch(
    context: &Context,
    sealed: &Sealed,
    slot: u32,
    boot_id: String,
    cancelled: impl Future<Output = ()>,
) -> Result<Arc<dyn Running>, LaunchError> {
    let bundle = open(context, sealed)?;
    let machine = bundle.machine;
    tracing::debug!(target: STAGES, %machine, at_us = moment_us(), "launching");
    let image = tokio::select! {
        image = prepare(context, &bundle) => image.map_err(LaunchError::Image)?,
        () = cancelled => return Err(LaunchError::Cancelled),
    };
    let dir = context.machine_dir(bundle.machine);
    tokio::fs::create_dir_all(&dir).await.map_err(LaunchError::Folder)?;
    let plan = network_plan(&bundle, slot);
    let network_namespace = context.deps.networks.attach(&plan).await.map_err(LaunchError::Network)?;
    context.deps.networks.limit(&plan, &bundle.limits).await.map_err(LaunchError::Network)?;
    tracing::debug!(target: STAGES, %machine, at_us = moment_us(), "networked");
    let spec =
        spec(context, &bundle, &image, slot, network_namespace, boot_id).await.map_err(LaunchError::Unlaunchable)?;
    context.deps.driver.start(&spec).await.map_err(LaunchError::Driver)
}

/// The main process as it was started: what commands beside it inherit.
pub async fn main_process(context: &Context, sealed: &Sealed, slot: u32) -> Result<ProcessSpec, LaunchError> {
    let bundle = open(context, sealed)?;
    let image = prepare(context, &bundle).await.map_err(LaunchError::Image)?;
    let spec = spec(context, &bundle, &image, slot, PathBuf::new(), String::new()).await;
    spec.map(|spec| spec.process).map_err(LaunchError::Unlaunchable)
}

async fn spec(
    context: &Context,
    bundle: &LaunchBundle,
    image: &PreparedImage,
    slot: u32,
    network_namespace: PathBuf,
    boot_id: String,
) -> Result<MachineSpec, Unlaunchable> {
    let dir = context.machine_dir(bundle.machine);
    let place = Place {
        dir: &dir,
        network_namespace,
        ipv4: context.deps.networks.ipv4(slot),
        cgroup: context.cgroup(bundle.machine),
        boot_id,
        pids_limit: context.config.knobs.pids_limit,
        resolv_conf: format!("nameserver {MACHINE_DNS}\n"),
    };
    launch::machine_spec(bundle, image, place)
}

pub fn network_plan(bundle: &LaunchBundle, slot: u32) -> NetworkPlan {
    NetworkPlan { machine: bundle.machine, slot, network: bundle.network, ipv6: bundle.private_ipv6 }
}

/// Removes what a run left on the host; tries until it works.
pub async fn clear(context: &Context, bundle: &LaunchBundle, slot: u32) {
    until_done(bundle.machine, || async {
        let machine = bundle.machine;
        let dir = context.machine_dir(machine);
        context.deps.driver.destroy(machine, &dir, &context.cgroup(machine)).await.map_err(boxed)?;
        context.deps.networks.detach(&network_plan(bundle, slot)).await.map_err(boxed)
    })
    .await;
}

/// Removes everything of the machine on the host; tries until it works.
pub async fn remove(context: &Context, bundle: &LaunchBundle, slot: u32) {
    clear(context, bundle, slot).await;
    until_done(bundle.machine, || async {
        match tokio::fs::remove_dir_all(context.machine_dir(bundle.machine)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(boxed(error)),
            _ => Ok(()),
        }
    })
    .await;
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Box::new(error)
}

/// Cleaning must not be given up: what is left would block the next start, or leak.
async fn until_done<F: Future<Output = Result<(), Failure>>>(machine: MachineId, mut attempt: impl FnMut() -> F) {
    const LONGEST: Duration = Duration::from_secs(10);
    let mut wait = Duration::from_millis(50);
    while let Err(error) = attempt().await {
        tracing::warn!(%machine, error = with_causes(error.as_ref()), "what the machine left cannot be removed yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST);
    }
}
