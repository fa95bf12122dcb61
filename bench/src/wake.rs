//! A request to a stopped app: how long until its user has the whole answer.

use std::time::Duration;

use anyhow::ensure;
use futures_util::future::try_join_all;

use atoll_trial::platform::Platform;
use atoll_trial::programs;
use atoll_trial::visit::{Answer, Ask, ask};
use atoll_trial::wait::until;

use crate::figure::{Figure, Figures, Samples};
use crate::scene::{self, APP, CLIENT};

const WAKES: usize = 100;
const NODE_WAKES: usize = 20;
const BURSTS: usize = 25;
/// Requests at once.
const BURST: usize = 20;
/// Where the examples listen.
const PORT: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(20);

pub async fn run() -> anyhow::Result<Figures> {
    let platform = scene::one_node(&[]).await?;
    let mut single = Vec::new();
    let mut first_of_burst = Vec::new();
    let hello = served(&platform, "hello").await?;
    for _ in 0..WAKES {
        platform.stop_machine(APP, &hello).await?;
        single.push(milliseconds(request(&platform).await?.took));
    }
    for _ in 0..BURSTS {
        platform.stop_machine(APP, &hello).await?;
        let answers = try_join_all((0..BURST).map(|_| request(&platform))).await?;
        let first = answers.iter().map(|answer| answer.took).min().unwrap_or_default();
        first_of_burst.push(milliseconds(first));
    }
    platform.client().machine_destroy(APP, &hello, true).await?;
    until("the app has no machine", LIMIT, async || {
        ensure!(platform.client().machines(APP).await?.is_empty(), "it has one");
        Ok(())
    })
    .await?;

    let node = served(&platform, "node").await?;
    let mut script = Vec::new();
    for _ in 0..NODE_WAKES {
        platform.stop_machine(APP, &node).await?;
        script.push(milliseconds(request(&platform).await?.took));
    }
    let single: Samples = single.into_iter().collect();
    let first_of_burst: Samples = first_of_burst.into_iter().collect();
    let script: Samples = script.into_iter().collect();
    Ok(vec![
        ("stopped_p50_ms", Figure::new(single.p50(), "ms").held_to(100.0, 60.0)),
        ("stopped_p99_ms", Figure::new(single.p99(), "ms")),
        ("stopped_node_p50_ms", Figure::new(script.p50(), "ms")),
        ("first_of_burst_p99_ms", Figure::new(first_of_burst.p99(), "ms")),
    ])
}

/// A machine of an example that answers; gives its id.
async fn served(platform: &Platform, image: &str) -> anyhow::Result<String> {
    let image = scene::import(platform, image, &programs::example_image(image)?).await?;
    let machine = scene::machine(platform, "ams", &image, Some(PORT)).await?;
    until("the app answers", LIMIT, async || request(platform).await).await?;
    Ok(machine)
}

/// One request on a connection of its own.
async fn request(platform: &Platform) -> anyhow::Result<Answer> {
    let answer = ask(&platform.host(CLIENT)?, &Ask::get(&scene::site(), "/")).await?;
    ensure!(answer.status.is_success(), "status {}", answer.status);
    Ok(answer)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
