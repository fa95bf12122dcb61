//! One request from Mumbai to Bangalore by the edge in Chennai, led by BGP, against the delays of its links;
//! and what changes when Chennai can answer itself, or dies.

use std::time::{Duration, Instant};

use anyhow::ensure;

use atoll_trial::lifecycle::{Announced, REQUEST_LIFECYCLE, TWO_CITIES};

use crate::figure::{Figure, Figures};

/// What programs may take of the time of a request, beside their share of it.
const ALLOWANCE: Duration = Duration::from_millis(2);

pub async fn run() -> anyhow::Result<Figures> {
    let mut figures = mumbai(&Announced::start(REQUEST_LIFECYCLE).await?).await?;
    figures.extend(two_cities(&Announced::start(TWO_CITIES).await?).await?);
    Ok(figures)
}

async fn mumbai(world: &Announced) -> anyhow::Result<Figures> {
    let site = world.app("web", &["blr"]).await?;
    let (took, links) = world.mumbai_by_chennai(&site).await?;

    world.machine("web", "maa").await?;
    let (_, taken_over) = world.goes("mumbai", &site, |seen| seen.who.region == "maa").await?;
    let dies = Instant::now();
    world.platform.host("maa")?.kill().await?;
    let (seen, _) = world.goes("mumbai", &site, |seen| seen.edge != "maa").await?;
    ensure!(seen.who.region == "blr", "{seen:?}");
    let ratio = took.saturating_sub(ALLOWANCE).as_secs_f64() / links.as_secs_f64();
    Ok(vec![
        ("mumbai_total_ms", Figure::new(ms(took), "ms")),
        ("mumbai_links_ms", Figure::new(ms(links), "ms")),
        ("mumbai_total_over_links", Figure::new(ratio, "of the links, less 2 ms").held_to(1.15, 1.15)),
        ("machine_nearby_takes_over_ms", Figure::new(ms(taken_over), "ms")),
        ("chennai_dies_outage_ms", Figure::new(ms(dies.elapsed()), "ms")),
    ])
}

/// Users go where BGP's path is shortest, Paris to New York; gives how long Berlin waits when London dies.
async fn two_cities(world: &Announced) -> anyhow::Result<Figures> {
    let site = world.app("web", &["ewr", "lhr"]).await?;
    world.users_by_path(&site).await?;
    let dies = Instant::now();
    world.platform.host("lhr")?.kill().await?;
    world.goes("berlin", &site, |seen| seen.edge == "ewr").await?;
    Ok(vec![("london_dies_outage_ms", Figure::new(ms(dies.elapsed()), "ms"))])
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
