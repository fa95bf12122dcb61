//! `atoll deploy` of further releases to three regions under load, their image being there already.

use std::time::Instant;

use anyhow::ensure;

use atoll_trial::load::{RunningLoad, Tally};
use atoll_trial::platform::{Platform, Release, THREE_REGIONS};

use crate::figure::{Figure, Figures, Samples};

const APP: &str = "hello";
const REGIONS: [&str; 3] = ["ams", "nrt", "ord"];
const CLIENTS: [&str; 3] = ["berlin", "osaka", "chicago"];
/// Requests a second from each client.
const RATE: u32 = 20;
const RELEASES: [&str; 3] = ["two", "three", "four"];

pub async fn run() -> anyhow::Result<Figures> {
    let platform = Platform::start(THREE_REGIONS).await?;
    let site = platform.create_app(APP).await?;
    deploy(&platform, "one", &REGIONS).await?;
    for client in CLIENTS {
        platform.served(client, &site).await?;
    }
    let start = |client| RunningLoad::start(&platform.host(client)?, &site, RATE);
    let loads = CLIENTS.into_iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    for load in &loads {
        load.more(50).await?;
    }
    let mut took = Vec::new();
    for release in RELEASES {
        took.push(deploy(&platform, release, &[]).await?);
    }
    let mut shots = Vec::new();
    for load in loads {
        load.more(50).await?;
        shots.extend(load.stop().await?);
    }
    let tally = Tally::of(&shots);
    for failure in &tally.failures {
        eprintln!("failed: {failure}");
    }
    let took: Samples = took.into_iter().collect();
    Ok(vec![
        ("hot_three_regions_s", Figure::new(took.p50(), "s").held_to(10.0, 5.0)),
        ("failed_requests", Figure::new(tally.failed as f64, "requests").held_to(0.0, 0.0)),
        ("requests", Figure::new(tally.requests as f64, "requests")),
    ])
}

/// Seconds that the command took.
async fn deploy(platform: &Platform, release: &str, regions: &[&str]) -> anyhow::Result<f64> {
    let began = Instant::now();
    let said = platform.deploy(APP, &Release { name: release, ..Release::default() }, regions).await?;
    ensure!(said.code == Some(0), "release {release}: {}", said.stderr);
    Ok(began.elapsed().as_secs_f64())
}
