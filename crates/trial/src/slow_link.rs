//! An app whose user's edge has no machine of its own: when the way to the nearest one becomes long,
//! traffic takes the next one, and comes back. Done by the demo and by an end-to-end test, each under a
//! load of its own; in a world of three regions.

use std::time::{Duration, Instant};

use anyhow::ensure;

use atoll_model::MachineState;

use crate::platform::{MachineSpec, Platform};

/// Who asks, and the region of the edge that answers.
const CLIENT: &str = "berlin";
const EDGE: &str = "ams";
/// The regions of the app's machines, by their distance from that edge.
const NEAR: &str = "ord";
const NEXT: &str = "nrt";
const SLOWER_BY: Duration = Duration::from_millis(150);
/// By when traffic must follow.
const LIMIT: Duration = Duration::from_secs(5);

/// How long traffic took to follow.
#[derive(Clone, Copy, Debug)]
pub struct Followed {
    /// One request, while all was well.
    pub before: Duration,
    pub moved: Duration,
    pub back: Duration,
}

/// Makes the app and its machines; gives the host name at which it is served.
pub async fn prepare(platform: &Platform) -> anyhow::Result<String> {
    let site = platform.create_app("abroad").await?;
    for region in [NEAR, NEXT] {
        let spec = MachineSpec { region, ..MachineSpec::default() };
        let machine = platform.create_machine("abroad", &spec).await?;
        platform.in_state("abroad", &machine, MachineState::Started).await?;
    }
    served_from(platform, &site, NEAR).await?;
    Ok(site)
}

/// The link between the edge and the nearest machine where every two hosts are connected.
pub const DIRECT: (&str, &str) = (EDGE, NEAR);

/// Makes a link on the way to the nearest machine slow, and well again.
///
/// # Errors
/// Also if traffic followed only after the limit.
pub async fn slow_and_heal(platform: &Platform, site: &str, (a, b): (&str, &str)) -> anyhow::Result<Followed> {
    let before = served_from(platform, site, NEAR).await?;
    let slowed = Instant::now();
    platform.lab().slow(a, b, SLOWER_BY).await?;
    served_from(platform, site, NEXT).await?;
    let moved = slowed.elapsed();
    let healed = Instant::now();
    platform.lab().heal(a, b).await?;
    served_from(platform, site, NEAR).await?;
    let back = healed.elapsed();
    ensure!(moved <= LIMIT && back <= LIMIT, "traffic moved after {moved:.1?} and was back after {back:.1?}");
    Ok(Followed { before, moved, back })
}

/// Waits until a machine of the region answers; gives how long that answer took.
async fn served_from(platform: &Platform, site: &str, region: &str) -> anyhow::Result<Duration> {
    Ok(platform.served_as(CLIENT, site, |seen| seen.who.region == region).await?.took)
}
