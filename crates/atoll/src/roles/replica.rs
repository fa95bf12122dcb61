//! A process's own copy of the catalogue: fed by control's hub and by workers, kept on disk for a start
//! without anybody to ask.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use atoll_catalogue::disk::{self, Seal};
use atoll_catalogue::protocol::targets::Target;
use atoll_catalogue::protocol::{Positions, Replica};
use atoll_catalogue::watch::{BoxError, EdgePlace, ReplicaHandle, boot_clock, watch_as_edge};
use atoll_keyring::{FileKeys, Keyring};
use atoll_model::row::NodeState;
use atoll_rpc::channel::connect;
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::tls::LiveIdentity;

use super::Common;
use super::catalogue::open_watch;
use crate::node::setup::now_unix;

/// How often the copy is kept on disk.
pub const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Control that was heard within this time is alive as far as certificates go.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// The copy, and what keeps it up to date.
pub struct Kept {
    pub replica: ReplicaHandle,
    file: PathBuf,
    seal: FileSeal,
    saved: Option<Positions>,
    watching: JoinHandle<()>,
    stop: CancellationToken,
}

impl Kept {
    /// Begins with what an earlier process of the role kept, and watches. Who is revoked there is not
    /// believed any more.
    pub fn start(common: &Common, role: &'static str, control: Channel) -> anyhow::Result<Self> {
        let Common { state, node, live, .. } = common;
        let own = state.role(role);
        let keys = FileKeys::open_or_create(&own.join("root.key"))
            .with_context(|| format!("cannot open the key of the {role} process"))?;
        let seal = FileSeal { keyring: Keyring::new(Arc::new(keys)), context: format!("{role}/catalogue") };
        let file = own.join("catalogue");
        let replica = match disk::load(&file, &seal) {
            Ok(saved) => Replica::restore(saved),
            Err(error) => {
                tracing::info!(%error, "begins with an empty catalogue");
                Replica::default()
            }
        };
        let replica = ReplicaHandle::new(replica, boot_clock());
        let stop = CancellationToken::new();
        let place = EdgePlace { region: node.region, hubs: 1 };
        let connect_to = connect_to(live.clone(), control);
        let watching = tokio::spawn(watch_as_edge(replica.clone(), place, connect_to, rand::random(), stop.clone()));
        tokio::spawn(follow_revocations(replica.clone(), live.clone()));
        tokio::spawn(follow_authority(replica.clone(), live.clone()));
        Ok(Self { replica, file, seal, saved: None, watching, stop })
    }

    /// Writes the copy to disk if it has changed.
    pub fn save(&mut self) {
        let positions = self.replica.positions();
        if self.saved.as_ref() == Some(&positions) {
            return;
        }
        match disk::save(&self.file, &self.replica.save(), &self.seal) {
            Ok(()) => self.saved = Some(positions),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot keep the catalogue on disk");
            }
        }
    }

    /// Ends the watches, and keeps what they brought.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        (&mut self.watching).await?;
        self.save();
        Ok(())
    }
}

type Connecting = std::pin::Pin<Box<dyn Future<Output = Result<atoll_catalogue::watch::Streams, BoxError>> + Send>>;

fn connect_to(live: Arc<LiveIdentity>, control: Channel) -> impl Fn(Target) -> Connecting + Clone + Send + 'static {
    move |target| {
        let (live, control) = (live.clone(), control.clone());
        Box::pin(async move {
            match target {
                Target::Hub(_) => {
                    let streams = open_watch(control).await?;
                    live.trust().authority_heard(now_unix());
                    Ok(streams)
                }
                Target::Worker { node, address } => {
                    let expected = Expected::Exactly(Role::Worker, node);
                    open_watch(connect(&live, address.to_string(), expected)?).await
                }
            }
        })
    }
}

/// Certificates' keys are in the catalogue, so it is sealed on disk.
struct FileSeal {
    keyring: Keyring,
    context: String,
}

impl Seal for FileSeal {
    fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.keyring.seal(&self.context, plain)?)
    }

    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.keyring.open(&self.context, sealed)?.to_vec())
    }
}

/// A node that the directory calls revoked is cut off here too.
async fn follow_revocations(replica: ReplicaHandle, live: Arc<LiveIdentity>) {
    let mut changes = replica.subscribe();
    loop {
        let revoked = replica
            .snapshot()
            .nodes()
            .filter(|node| node.state == NodeState::Revoked)
            .map(|node| node.name.clone())
            .collect();
        live.trust().set_revoked(revoked);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// What the hub says, control has said within seconds.
async fn follow_authority(replica: ReplicaHandle, live: Arc<LiveIdentity>) {
    let mut ticks = tokio::time::interval(HEARD_WITHIN);
    loop {
        ticks.tick().await;
        if replica.hub_silence() < HEARD_WITHIN {
            live.trust().authority_heard(now_unix());
        }
    }
}
