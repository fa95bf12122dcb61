//! The first call of a machine to another continent right after the private network's process was killed,
//! with tickets of the other server and without.

use anyhow::ensure;

use atoll_trial::first_call::{after_restart, has_tickets, lose_tickets};
use atoll_trial::platform::{Platform, SOON, TWO_REGIONS};
use atoll_trial::wait::until;

use crate::figure::{Figure, Figures, Samples};
use crate::scene::APP;

/// Restarts of each kind, in turns.
const ROUNDS: usize = 8;

pub async fn run() -> anyhow::Result<Figures> {
    let platform = Platform::start(TWO_REGIONS).await?;
    platform.create_app(APP).await?;
    let near = platform.running_machine(APP, "nrt").await?.id;
    let to = platform.running_machine(APP, "ams").await?.address;
    let node = platform.node("nrt")?;
    let url = format!("http://[{to}]:8080/healthz");
    until("the servers reach each other", SOON, async || {
        let output = node.in_machine(&near, "curl", &["-sSfg", "--max-time", "2", &url]).await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
    .await?;
    let (mut with, mut without, mut pause) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for resumed in [true, false] {
            has_tickets(node, 1).await?;
            if !resumed {
                lose_tickets(node)?;
            }
            let call = after_restart(node, &near, to).await?;
            let took = if resumed { &mut with } else { &mut without };
            took.push(call.took.as_secs_f64() * 1e3);
            pause.push(call.began_after.as_secs_f64() * 1e3);
        }
    }
    let p50 = |samples: Vec<f64>| samples.into_iter().collect::<Samples>().p50();
    let (with, without) = (p50(with), p50(without));
    Ok(vec![
        ("first_call_resumption_ratio", Figure::new(with / without, "").held_to(1.0, 0.7)),
        ("first_call_ms", Figure::new(with, "ms").against(without)),
        ("first_call_pause_ms", Figure::new(p50(pause), "ms")),
    ])
}
