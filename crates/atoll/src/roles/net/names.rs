//! What the DNS servers of this process answer from: the catalogue and the latest probes.

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

/// Names outside the private network, asked of whom this host asks.
pub fn recursion(file: &Path) -> Option<Arc<dyn Recursion>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let servers = resolvers::of(&text);
    if servers.is_empty() {
        tracing::warn!(file = %file.display(), "names no resolver: machines resolve private names only");
        return None;
    }
    Some(Arc::new(Forwarder::new(servers)))
}
