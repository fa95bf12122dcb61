//! `atoll deploy` of further releases to three regions under load, their image being there already.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, ensure};
use atoll_model::wire::DeployEvent;

use atoll_trial::load::{RunningLoad, Tally};
use atoll_trial::platform::{Platform, Release, THREE_REGIONS};

use crate::figure::{Figure, Figures, Samples};

const APP: &str = "hello";
const REGIONS: [&str; 3] = ["ams", "nrt", "ord"];
const CLIENTS: [&str; 3] = ["berlin", "osaka", "chicago"];
/// Requests a second from each client.
const RATE: u32 = 20;
/// Where the time goes: steps by how what they say begins.
const STEPS: [(&str, &str); 7] = [
    ("having the image", "image_s"),
    ("creating", "create_s"),
    ("waiting for it to work", "gate_s"),
    ("waiting for every edge", "barrier_s"),
    ("taking it out", "cordon_s"),
    ("letting open requests", "drain_s"),
    ("stopping", "destroy_s"),
];
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
    let events = events(&platform).await?;
    let tally = Tally::of(&shots);
    for failure in &tally.failures {
        eprintln!("failed: {failure}");
    }
    let took: Samples = took.into_iter().collect();
    let mut figures = vec![
        ("hot_three_regions_s", Figure::new(took.p50(), "s").held_to(10.0, 5.0)),
        ("failed_requests", Figure::new(tally.failed as f64, "requests").held_to(0.0, 0.0)),
        ("requests", Figure::new(tally.requests as f64, "requests")),
    ];
    figures.extend(time_spent(&events).into_iter().map(|(step, seconds)| (step, Figure::new(seconds, "s"))));
    Ok(figures)
}

/// What the last release's deploy told of itself.
async fn events(platform: &Platform) -> anyhow::Result<Vec<DeployEvent>> {
    let client = platform.client();
    let newest = client.releases(APP).await?.into_iter().map(|release| release.version).max();
    let mut lines = client.release_events(APP, newest.context("no release")?, 0).await?;
    let mut events = Vec::new();
    while let Some(event) = lines.next().await? {
        events.push(event);
    }
    Ok(events)
}

/// Seconds from each step's beginning to what is said next of its machine, on average over the regions,
/// which are worked on at the same time.
fn time_spent(events: &[DeployEvent]) -> [(&'static str, f64); STEPS.len()] {
    let step_of = |event: &DeployEvent| STEPS.iter().position(|(begin, _)| event.text.starts_with(begin));
    let mut spent = STEPS.map(|(_, key)| (key, 0.0));
    let mut current = BTreeMap::new();
    for event in events.iter().filter(|event| event.machine.is_some()) {
        if let Some((step, since)) = current.get(&event.machine) {
            let (_, seconds): &mut (_, f64) = &mut spent[*step];
            *seconds += event.at_ms.saturating_sub(*since) as f64 / 1000.0 / REGIONS.len() as f64;
        }
        // What a step waits for goes on its account.
        let step = step_of(event).or_else(|| current.get(&event.machine).map(|(step, _)| *step));
        current.extend(step.map(|step| (event.machine, (step, event.at_ms))));
    }
    spent
}

/// Seconds that the command took.
async fn deploy(platform: &Platform, release: &str, regions: &[&str]) -> anyhow::Result<f64> {
    let began = Instant::now();
    let said = platform.deploy(APP, &Release { name: release, ..Release::default() }, regions).await?;
    ensure!(said.code == Some(0), "release {release}: {}", said.stderr);
    Ok(began.elapsed().as_secs_f64())
}
