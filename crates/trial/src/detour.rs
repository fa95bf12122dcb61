//! Two servers whose link becomes bad: their private traffic goes over a third one, and comes back. Done by an
//! end-to-end test and measured by the mesh's bench.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use atoll_model::wire::MeshWay;

use crate::platform::{Platform, SOON};
use crate::private::Pair;
use crate::wait::until;

/// Three servers near each other. Control is beside the link that becomes bad, to be told by both ends.
pub const TRIANGLE: &str = r#"
[[host]]
name = "fra"
city = "fra"
role = "node"

[[host]]
name = "ams"
city = "ams"
role = "node"

[[host]]
name = "lhr"
city = "lhr"
role = "node"
"#;

/// The ends of the link, and who is beside it.
pub const NEAR: &str = "ams";
pub const FAR: &str = "lhr";
pub const THIRD: &str = "fra";

/// What the link becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A round trip takes 100 ms more.
    Slow,
    /// Each direction loses a tenth.
    Lossy,
    Cut,
}

impl Fault {
    pub const ALL: [Self; 3] = [Self::Slow, Self::Lossy, Self::Cut];

    async fn strike(self, platform: &Platform) -> anyhow::Result<()> {
        let lab = platform.lab();
        match self {
            Self::Slow => lab.slow(NEAR, FAR, Duration::from_millis(50)).await?,
            Self::Lossy => lab.lose(NEAR, FAR, 10.0).await?,
            Self::Cut => lab.cut(NEAR, FAR).await?,
        }
        Ok(())
    }
}

/// How long packets took to follow.
#[derive(Clone, Copy, Debug)]
pub struct Detour {
    pub left: Duration,
    pub back: Duration,
}

/// Makes a machine at each end of the link, and waits until all servers reach each other directly.
pub async fn prepare(platform: &Platform) -> anyhow::Result<Pair> {
    let pair = Pair::make(platform, [NEAR, FAR]).await?;
    until("all servers reach each other", SOON, async || {
        let found = platform.client().mesh().await?;
        let ways = found.servers.iter().filter_map(|server| server.report.as_ref()).flat_map(|report| &report.ways);
        let reached = ways.filter(|way| way.direct_round_trip_ms.is_some() && way.reachable == Some(true));
        ensure!(reached.count() == 6, "{found:?}");
        ensure!(found.findings.is_empty(), "{:?}", found.findings);
        Ok(())
    })
    .await?;
    Ok(pair)
}

/// Makes the link bad, and well again once packets go around it.
pub async fn strike_and_heal(platform: &Platform, pair: &Pair, fault: Fault) -> anyhow::Result<Detour> {
    let struck = Instant::now();
    fault.strike(platform).await?;
    go_over(platform, Some(THIRD)).await?;
    let left = struck.elapsed();
    pair.passes(platform).await?;
    let healed = Instant::now();
    platform.lab().heal(NEAR, FAR).await?;
    go_over(platform, None).await?;
    let back = healed.elapsed();
    pair.passes(platform).await?;
    Ok(Detour { left, back })
}

/// Packets flow without a loss for longer than a return must last to be held for one.
pub async fn stay_calm(platform: &Platform, pair: &Pair) -> anyhow::Result<()> {
    let counted = pair.count(platform, 120, Duration::from_millis(100)).await?;
    ensure!(counted.lost == 0, "{counted:?}");
    Ok(())
}

/// Waits until packets of both servers to each other take this way.
async fn go_over(platform: &Platform, relay: Option<&str>) -> anyhow::Result<()> {
    let what = relay.map_or("packets go directly".to_owned(), |relay| format!("packets go over {relay}"));
    until(&what, SOON, async || {
        for way in [way(platform, NEAR, FAR).await?, way(platform, FAR, NEAR).await?] {
            let over = way.relay.as_ref().map(|relay| relay.node.to_string());
            ensure!(over.as_deref() == relay && way.reachable == Some(true), "{way:?}");
        }
        Ok(())
    })
    .await?;
    Ok(())
}

/// The way from one server to another, as that one says.
async fn way(platform: &Platform, from: &str, to: &str) -> anyhow::Result<MeshWay> {
    let found = platform.client().mesh().await?;
    let server = found.servers.into_iter().find(|server| server.node.to_string() == from);
    let report = server.and_then(|server| server.report).with_context(|| format!("{from} says nothing"))?;
    report.ways.into_iter().find(|way| way.node.to_string() == to).with_context(|| format!("{from} has no way to {to}"))
}
