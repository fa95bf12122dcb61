//! Two servers whose link becomes bad: their private traffic goes over a third one, and comes back. Done by an
//! end-to-end test and measured by the mesh's bench.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use atoll_model::MachineState;
use atoll_model::wire::MeshWay;

use crate::platform::{MachineSpec, Platform, SOON};
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

/// A machine at each end of the link.
pub struct Ends {
    pub near: String,
    pub far: String,
    /// Private, of the far one.
    pub address: String,
}

impl Ends {
    /// Makes the machines, and waits until all servers reach each other directly.
    pub async fn prepare(platform: &Platform) -> anyhow::Result<Self> {
        platform.create_app("web").await?;
        let make = async |region: &'static str| {
            let id = platform.create_machine("web", &MachineSpec { region, ..MachineSpec::default() }).await?;
            let machine = platform.in_state("web", &id, MachineState::Started).await?;
            Ok::<_, anyhow::Error>((id, machine.private_ip))
        };
        let ((near, _), (far, address)) = (make(NEAR).await?, make(FAR).await?);
        let ends = Self { near, far, address };
        until("all servers reach each other", SOON, async || {
            let found = platform.client().mesh().await?;
            let ways = found.servers.iter().filter_map(|server| server.report.as_ref()).flat_map(|report| &report.ways);
            ensure!(ways.filter(|way| way.direct_round_trip_ms.is_some()).count() == 6, "{found:?}");
            ensure!(found.findings.is_empty(), "{:?}", found.findings);
            ends.answers(platform).await
        })
        .await?;
        Ok(ends)
    }

    /// The machines' own view: one asks, the other answers, within a second.
    pub async fn answers(&self, platform: &Platform) -> anyhow::Result<()> {
        let said = self.ping(platform, &["-c", "1", "-W", "1"]).await?;
        ensure!(said.contains(" 0% packet loss"), "{said}");
        Ok(())
    }

    pub async fn ping(&self, platform: &Platform, arguments: &[&str]) -> anyhow::Result<String> {
        let arguments = [&["-6", "-q"], arguments, &[&self.address]].concat();
        let output = platform.node(NEAR)?.in_machine(&self.near, "ping", &arguments).await?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Packets flow without a loss for longer than a return must last to be held for one.
    pub async fn stay_calm(&self, platform: &Platform) -> anyhow::Result<()> {
        let said = self.ping(platform, &["-c", "120", "-i", "0.1"]).await?;
        ensure!(said.contains(" 0% packet loss"), "{said}");
        Ok(())
    }

    /// Makes the link bad, and well again once packets go around it.
    pub async fn strike_and_heal(&self, platform: &Platform, fault: Fault) -> anyhow::Result<Detour> {
        let struck = Instant::now();
        fault.strike(platform).await?;
        self.go_over(platform, Some(THIRD)).await?;
        let left = struck.elapsed();
        self.answers(platform).await?;
        let healed = Instant::now();
        platform.lab().heal(NEAR, FAR).await?;
        self.go_over(platform, None).await?;
        let back = healed.elapsed();
        self.answers(platform).await?;
        Ok(Detour { left, back })
    }

    /// Waits until packets of both servers to each other take this way.
    async fn go_over(&self, platform: &Platform, relay: Option<&str>) -> anyhow::Result<()> {
        let what = relay.map_or("packets go directly".to_owned(), |relay| format!("packets go over {relay}"));
        until(&what, SOON, async || {
            for way in [way(platform, NEAR, FAR).await?, way(platform, FAR, NEAR).await?] {
                let over = way.relay.as_ref().map(|relay| relay.node.to_string());
                ensure!(over.as_deref() == relay && way.reachable, "{way:?}");
            }
            Ok(())
        })
        .await?;
        Ok(())
    }
}

/// The way from one server to another, as that one says.
async fn way(platform: &Platform, from: &str, to: &str) -> anyhow::Result<MeshWay> {
    let found = platform.client().mesh().await?;
    let server = found.servers.into_iter().find(|server| server.node.to_string() == from);
    let report = server.and_then(|server| server.report).with_context(|| format!("{from} says nothing"))?;
    report.ways.into_iter().find(|way| way.node.to_string() == to).with_context(|| format!("{from} has no way to {to}"))
}
