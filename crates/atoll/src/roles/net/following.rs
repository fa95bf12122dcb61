//! Keeps the link's peers and addresses as the catalogue has them.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::sync::watch;

use atoll_catalogue::watch::ReplicaHandle;
use atoll_mesh::PublicKey;
use atoll_mesh::probe::Prober;
use atoll_model::{NodeName, RegionCode};
use atoll_net::links::Links;
use atoll_net::peers::{Wanted, wanted};

/// Changes that come together are made together; many addresses make the pause longer, so that following
/// takes a fifth of a processor at most.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const PAUSE_FACTOR: u32 = 4;
/// After the link refused something.
const TRY_AGAIN: Duration = Duration::from_millis(500);

pub struct Following {
    pub links: Links,
    /// This server.
    pub own: PublicKey,
    pub node: NodeName,
    pub region: RegionCode,
    pub replica: ReplicaHandle,
    /// Told whom the link has, for whoever wants to know.
    pub peers: Arc<ArcSwap<Wanted>>,
    /// Told which addresses are of this server's region.
    pub near: watch::Sender<Option<BTreeSet<Ipv6Addr>>>,
    pub prober: Prober,
}

impl Following {
    /// Follows until the catalogue ends, on a thread of its own: the async ones must not wait for the kernel.
    pub fn start(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("net-links".to_owned())
            .spawn(move || self.run(&runtime))
            .context("cannot follow the catalogue")?;
        Ok(())
    }

    fn run(mut self, runtime: &tokio::runtime::Handle) {
        let mut changes = self.replica.subscribe();
        loop {
            let began = Instant::now();
            changes.mark_unchanged();
            let want = wanted(&self.replica.snapshot(), &self.node, self.own);
            self.prober.set_targets(want.targets());
            self.peers.store(Arc::new(Wanted { peers: want.peers.clone(), ..Wanted::default() }));
            let near = Some(want.addresses_in(self.region));
            self.near.send_if_modified(|known| {
                let changed = *known != near;
                *known = near;
                changed
            });
            let followed = self.links.follow(want).inspect_err(|error| {
                tracing::error!(error = error as &dyn std::error::Error, "the mesh is not as the catalogue wants it");
            });
            std::thread::sleep(FIRST_PAUSE + began.elapsed() * PAUSE_FACTOR);
            if followed.is_err() {
                std::thread::sleep(TRY_AGAIN);
            } else if runtime.block_on(changes.changed()).is_err() {
                return;
            }
        }
    }
}
