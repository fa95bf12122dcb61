//! How soon the farthest edge routes by a change of a machine, beyond the delay of the way there; and
//! what a catalogue of 100,000 machines costs.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::json;

use atoll_lab::World;
use atoll_trial::platform::{Platform, THREE_REGIONS};
use atoll_trial::wait::until;
use tokio::process::Command;

use crate::figure::{Figure, Figures, Samples};
use crate::scene::{self, APP};
use crate::stages::{self, Stage};

/// The node that changes, control's, and the one whose edge is the farthest: it hears of the change by
/// way of control.
const WAY: [&str; 3] = ["nrt", "ams", "ord"];
const CHANGES: usize = 200;
const LIMIT: Duration = Duration::from_secs(10);
/// Names the program that measures the catalogue by itself, an example of its crate.
const FOOTPRINT_VARIABLE: &str = "ATOLL_CATALOGUE_FOOTPRINT";

/// What that program says.
#[derive(Deserialize)]
struct Footprint {
    bytes_each: f64,
    lookup_ns: f64,
}

pub async fn run() -> anyhow::Result<Figures> {
    let beyond_path = changes().await?;
    let program = std::env::var_os(FOOTPRINT_VARIABLE).with_context(|| format!("{FOOTPRINT_VARIABLE} is not set"))?;
    let output = Command::new(program).arg("--json").output().await.context("cannot measure the catalogue")?;
    let footprint: Footprint = serde_json::from_slice(&output.stdout).context("the footprint cannot be read")?;
    Ok(vec![
        ("change_to_farthest_edge_p50_ms", Figure::new(beyond_path.p50(), "ms")),
        ("change_to_farthest_edge_p99_ms", Figure::new(beyond_path.p99(), "ms").held_to(100.0, 30.0)),
        ("rows_100k_bytes_each", Figure::new(footprint.bytes_each, "B").held_to(2048.0, 1024.0)),
        ("lookup_100k_us", Figure::new(footprint.lookup_ns / 1e3, "us").held_to(5.0, 1.0)),
    ])
}

/// Milliseconds from a worker's word to the farthest edge's new view, without the delay of the way.
async fn changes() -> anyhow::Result<Samples> {
    let [changing, _, farthest] = WAY;
    let platform = Platform::start_with(THREE_REGIONS, &stages::ARGUMENTS).await?;
    platform.client().app_create(APP, "personal").await?;
    let image = scene::import(&platform, "first", &scene::first_image()).await?;
    let machine = scene::machine(&platform, changing, &image, None).await?;
    let before = puts(&platform)?.len();
    for change in 0..CHANGES {
        let verb = if change % 2 == 0 { "cordon" } else { "uncordon" };
        platform.client().machine_change(APP, &machine, verb, &json!({})).await?;
    }
    let puts = puts(&platform)?.split_off(before);
    ensure!(puts.len() >= CHANGES, "{} of {CHANGES} changes were published", puts.len());
    let last = puts.last().map_or(0, |put| put.sequence);
    let owner = format!("node/{changing}");
    let (swaps, _) = until("the farthest edge has every change", LIMIT, async || {
        let swaps: Vec<Stage> = stages::of(platform.node(farthest)?)?
            .into_iter()
            .filter(|stage| stage.name == "swapped" && stage.owner.as_ref() == Some(&owner))
            .collect();
        ensure!(swaps.iter().any(|swap| swap.sequence >= last), "its view is older");
        Ok(swaps)
    })
    .await?;
    let delay_us = delay_us()?;
    let beyond = |put: &Stage| {
        // Several changes may come in one swap.
        let swap = swaps.iter().find(|swap| swap.sequence >= put.sequence)?;
        Some((swap.at_us as f64 - put.at_us as f64 - delay_us) / 1e3)
    };
    puts.iter().map(|put| beyond(put).context("a change never came")).collect()
}

/// What the changing node's worker has published.
fn puts(platform: &Platform) -> anyhow::Result<Vec<Stage>> {
    let stages = stages::of(platform.node(WAY[0])?)?;
    Ok(stages.into_iter().filter(|stage| stage.name == "put").collect())
}

/// One way along [`WAY`].
fn delay_us() -> anyhow::Result<f64> {
    let world = World::parse(THREE_REGIONS)?;
    let paths = world.paths();
    let legs = WAY.windows(2).map(|leg| {
        let (from, to) = (world.port(leg[0])?, world.port(leg[1])?);
        Some(paths.effective(from, to)?.delay.as_secs_f64() * 1e6)
    });
    legs.sum::<Option<f64>>().context("the way does not exist")
}
