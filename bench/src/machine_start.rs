//! How long after the request a machine's workload runs, and where the time goes; beside it, in turn
//! with it, `runc run` of the same program with the same limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use atoll_signals::moment_us;
use atoll_trial::platform::Platform;
use atoll_trial::wait::until;

use crate::figure::{Figure, Figures, Samples};
use crate::runc::Runc;
use crate::scene::{self, APP};
use crate::stages::{self, Stage};

/// Starts that are not counted: caches are cold, the pool of namespaces fills.
const WARM_UP: usize = 5;
const STARTS: usize = 60;
const LIMIT: Duration = Duration::from_secs(20);

/// One start: when it was asked for, which machine it made, when the workload ran.
struct Start {
    asked_us: u64,
    machine: String,
    first_us: u64,
}

pub async fn run() -> anyhow::Result<Figures> {
    let platform = scene::one_node(&stages::ARGUMENTS).await?;
    let image = scene::import(&platform, "first", &scene::first_image()).await?;
    let runc = Runc::new(&scene::checkout().join("target/bench/first-root"))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + STARTS {
        let start = start(&platform, &image).await?;
        let peer = runc.first_instruction_us(round).await?;
        if round >= WARM_UP {
            ours.push(start);
            theirs.push(peer as f64 / 1e3);
        }
    }
    figures(&ours, theirs.into_iter().collect(), &stages::of(platform.node("ams")?)?)
}

async fn start(platform: &Platform, image: &str) -> anyhow::Result<Start> {
    let body = json!({"region": "ams", "config": {"image": image, "restart": {"policy": "no"}}});
    let path = format!("/v1/apps/{APP}/machines");
    let asked_us = moment_us();
    let made = platform.client().raw(http::Method::POST, &path, Some(&body)).await?;
    let machine = made["id"].as_str().context("the machine made has no id")?.to_owned();
    let folder = platform.node("ams")?.state()?.join("worker/machines").join(&machine);
    let (first_us, _) = until("the workload ran", LIMIT, async || first_line(&folder)).await?;
    platform.client().machine_destroy(APP, &machine, true).await?;
    until("the machine is gone", LIMIT, async || {
        ensure!(!folder.exists(), "{} is there", folder.display());
        Ok(())
    })
    .await?;
    Ok(Start { asked_us, machine, first_us })
}

/// What the workload says of itself in its machine's log.
fn first_line(folder: &Path) -> anyhow::Result<u64> {
    let file: PathBuf = folder.join("log/current.jsonl");
    let text = std::fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let first = lines.filter_map(|line| line["line"].as_str().and_then(scene::first_of)).next();
    first.context("the workload has said nothing yet")
}

fn figures(starts: &[Start], peer: Samples, stages: &[Stage]) -> anyhow::Result<Figures> {
    const SPANS: [&str; 5] = ["api_p50_ms", "record_p50_ms", "network_p50_ms", "root_p50_ms", "exec_p50_ms"];
    let split = starts.iter().map(|start| spans(start, stages)).collect::<anyhow::Result<Vec<_>>>()?;
    let whole = starts.iter().map(|start| start.first_us.saturating_sub(start.asked_us) as f64 / 1e3);
    let whole: Samples = whole.collect();
    let mut figures = vec![
        ("container_first_instruction_p50_ms", Figure::new(whole.p50(), "ms").held_to(0.75, 0.4).against(peer.p50())),
        ("container_first_instruction_p99_ms", Figure::new(whole.p99(), "ms").against(peer.p99())),
    ];
    for (index, key) in SPANS.into_iter().enumerate() {
        let span: Samples = split.iter().map(|spans| spans[index]).collect();
        figures.push((key, Figure::new(span.p50(), "ms")));
    }
    Ok(figures)
}

/// Milliseconds between the moments of a start, in their order.
fn spans(start: &Start, stages: &[Stage]) -> anyhow::Result<[f64; 5]> {
    let at = |name: &str| {
        let of_machine = |stage: &&Stage| stage.name == name && stage.machine.as_ref() == Some(&start.machine);
        let stage = stages.iter().find(of_machine);
        stage.map(|stage| stage.at_us).with_context(|| format!("machine {} was never {name}", start.machine))
    };
    let moments = [start.asked_us, at("asked")?, at("launching")?, at("networked")?, at("executed")?, start.first_us];
    Ok(std::array::from_fn(|index| (moments[index + 1] as f64 - moments[index] as f64) / 1e3))
}
