//! Two edges under constant load, of which one is given up: drained, the server first, which lets its edge
//! send users to other connections, then its announcement; and, in another world, dead at once. What users
//! lose, and for how long.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::ensure;

use atoll_trial::guard::{PREFIX, is_about};
use atoll_trial::lifecycle::{Announced, TWO_CITIES};
use atoll_trial::load::{RunningLoad, Shot};
use atoll_trial::wait::until;

use crate::figure::{Figure, Figures};

/// Requests a second of one user, half of them on new connections.
const RATE: u32 = 100;
/// In which users of a server that leaves come to other connections, as docs/operating.md says.
const DEPARTURE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(30);

pub async fn run() -> anyhow::Result<Figures> {
    let drained = drain().await?;
    let crashed = crash().await?;
    Ok(vec![
        ("drain_requests_lost_not_in_flight", drained.later().held_to(0.0, 0.0)),
        ("drain_requests_lost_in_flight", drained.in_flight()),
        ("drain_outage_ms", drained.outage()),
        ("crash_requests_lost_not_in_flight", crashed.later()),
        ("crash_requests_lost_in_flight", crashed.in_flight()),
        ("crash_outage_ms", crashed.outage()),
    ])
}

async fn drain() -> anyhow::Result<Losses> {
    let mut world = Announced::start(TWO_CITIES).await?;
    let load = begin(&world).await?;
    world.platform.client().node_change("lhr", "drain", false).await?;
    tokio::time::sleep(DEPARTURE).await;
    let mut watch = world.guard("lhr")?.watch().await?;
    world.guard_mut("lhr")?.change_plan(|plan| plan["drain"] = serde_json::json!({"places_left": 1}))?;
    // From here on packets arrive elsewhere: what was under way is lost.
    let led_elsewhere = watch.until(LIMIT, |change| is_about(change, PREFIX.0)).await?;
    let at = now_ms() - led_elsewhere.at.elapsed().as_millis() as u64;
    Ok(Losses::of(&end(load, "ewr").await?, at))
}

async fn crash() -> anyhow::Result<Losses> {
    let world = Announced::start(TWO_CITIES).await?;
    let load = begin(&world).await?;
    let at = now_ms();
    world.platform.host("lhr")?.kill().await?;
    Ok(Losses::of(&end(load, "ewr").await?, at))
}

async fn begin(world: &Announced) -> anyhow::Result<RunningLoad> {
    let site = world.app("web", &["ewr", "lhr"]).await?;
    world.goes("berlin", &site, |seen| seen.edge == "lhr").await?;
    let load = RunningLoad::start(&world.platform.host("berlin")?, &site, RATE)?;
    load.more(200).await?;
    Ok(load)
}

/// Goes on until another edge answers for a while.
async fn end(load: RunningLoad, edge: &str) -> anyhow::Result<Vec<Shot>> {
    until("the other edge answers", LIMIT, async || {
        let answered = load.with(|shots| shots.iter().rev().take(50).all(|shot| shot.edge.as_deref() == Some(edge)));
        ensure!(answered, "not yet");
        Ok(())
    })
    .await?;
    load.stop().await
}

/// What was lost around a moment.
struct Losses {
    in_flight: usize,
    later: usize,
    outage_ms: f64,
}

impl Losses {
    fn of(shots: &[Shot], at_ms: u64) -> Self {
        let lost = || shots.iter().filter(|shot| shot.error.is_some());
        for shot in lost() {
            let after = shot.at_ms as i64 - at_ms as i64;
            eprintln!("lost {:?}, begun {after} ms after: {}", shot.kind, shot.error.as_deref().unwrap_or_default());
        }
        let ended = |shot: &Shot| shot.at_ms as f64 + shot.took_ms;
        let answered = shots.iter().filter(|shot| shot.error.is_none() && shot.at_ms >= at_ms).map(ended);
        let first = answered.fold(f64::INFINITY, f64::min);
        // Where nothing was lost there was no outage, however long the first answer took.
        let outage_ms = if lost().any(|shot| shot.at_ms >= at_ms) { first - at_ms as f64 } else { 0.0 };
        Self {
            in_flight: lost().filter(|shot| shot.at_ms < at_ms).count(),
            later: lost().filter(|shot| shot.at_ms >= at_ms).count(),
            outage_ms,
        }
    }

    fn in_flight(&self) -> Figure {
        Figure::new(self.in_flight as f64, "requests")
    }

    fn later(&self) -> Figure {
        Figure::new(self.later as f64, "requests")
    }

    fn outage(&self) -> Figure {
        Figure::new(self.outage_ms, "ms")
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}
