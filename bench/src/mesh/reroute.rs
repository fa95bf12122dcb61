//! How soon private traffic leaves a bad link for a third server, and is back once the link is well. On a whole
//! platform in a lab.

use atoll_trial::detour::{Fault, TRIANGLE, prepare, stay_calm, strike_and_heal};
use atoll_trial::platform::Platform;

use crate::figure::{Figure, Figures};

/// Of each fault; the figure is the worst of all.
const ROUNDS: usize = 3;
/// Seconds.
const GATE: f64 = 5.0;
const TARGET: f64 = 2.5;

pub async fn run() -> anyhow::Result<Figures> {
    let platform = Platform::start(TRIANGLE).await?;
    let pair = prepare(&platform).await?;
    let (mut left, mut back) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        for fault in Fault::ALL {
            let detour = strike_and_heal(&platform, &pair, fault).await?;
            left = left.max(detour.left.as_secs_f64());
            back = back.max(detour.back.as_secs_f64());
            stay_calm(&platform, &pair).await?;
        }
    }
    Ok(vec![
        ("reroute_s", Figure::new(left, "s").held_to(GATE, TARGET)),
        ("reroute_back_s", Figure::new(back, "s").held_to(GATE, TARGET)),
    ])
}
