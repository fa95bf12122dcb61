//! What the DNS servers of this process answer from: the catalogue and the latest probes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use atoll_catalogue::watch::ReplicaHandle;
use atoll_dns::forward::Forwarder;
use atoll_dns::internal::{Here, Recursion, View};
use atoll_model::reach::Reachability;
use atoll_net::resolvers;

/// How often names are answered by fresh probes.
const REACH_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked whom this host asks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What names are answered from.
#[derive(Clone)]
pub struct Names {
    pub replica: ReplicaHandle,
    pub reach: Arc<ArcSwap<Reachability>>,
    pub here: Here,
}

impl Names {
    pub fn view(&self) -> View {
        View {
            catalogue: self.replica.snapshot().as_ref().clone(),
            reach: self.reach.load_full(),
            here: self.here.clone(),
            api: None,
        }
    }

    /// Tells of each change of the catalogue at once, and of the latest probes.
    pub async fn follow(self, tell: impl Fn(&Self)) {
        let mut changes = self.replica.subscribe();
        let mut probed = tokio::time::interval(REACH_EVERY);
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                _ = probed.tick() => {}
            }
            tell(&self);
        }
    }
}

/// Names outside the private network, asked of whom this host asks, also when that changes. Where it asks nobody,
/// machines resolve private names only.
pub fn recursion(file: &'static Path) -> Arc<dyn Recursion> {
    let servers = name_servers(file).unwrap_or_default();
    if servers.is_empty() {
        tracing::warn!(file = %file.display(), "names no resolver: machines resolve private names only");
    }
    let forwarder = Arc::new(Forwarder::new(servers.clone()));
    tokio::spawn(follow_resolvers(file, servers, forwarder.clone()));
    forwarder
}

async fn follow_resolvers(file: &'static Path, mut known: Vec<SocketAddr>, forwarder: Arc<Forwarder>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        // One that is being replaced is not there for a moment.
        let Some(servers) = name_servers(file).filter(|servers| *servers != known) else { continue };
        tracing::info!(?servers, "this host asks other resolvers now, and so do its machines");
        forwarder.set_upstreams(servers.clone());
        known = servers;
    }
}

fn name_servers(file: &Path) -> Option<Vec<SocketAddr>> {
    std::fs::read_to_string(file).ok().map(|text| resolvers::of(&text))
}
