//! Keeps the packet filter told which private addresses are of this server's region, so that the bytes of
//! machines are counted by how far they went.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use atoll_signals::with_causes;
use atoll_worker::network::set_region;

/// Changes that come together are made together; many addresses make the pause longer, so that it takes a
/// tenth of a processor at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_FACTOR: u32 = 9;
/// Told again although nothing changed: someone may have emptied the packet filter.
const AGAIN_AFTER: Duration = Duration::from_secs(300);
/// After it refused.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Runs until nobody says any more which addresses these are. What an earlier process said holds until it is
/// known.
pub async fn keep(instance: u32, mut addresses: watch::Receiver<Option<BTreeSet<Ipv6Addr>>>) {
    loop {
        let now = match addresses.wait_for(Option::is_some).await {
            Ok(known) => known.clone().unwrap_or_default(),
            Err(_) => return,
        };
        let began = Instant::now();
        if let Err(error) = set_region(instance, &now).await {
            let error = with_causes(&error);
            tracing::warn!(error, "bytes of machines may be counted as another region's for now");
            tokio::time::sleep(TRY_AGAIN).await;
            continue;
        }
        tokio::time::sleep(FIRST_PAUSE + began.elapsed() * PAUSE_FACTOR).await;
        if let Ok(Err(_)) = tokio::time::timeout(AGAIN_AFTER, addresses.changed()).await {
            return;
        }
    }
}
