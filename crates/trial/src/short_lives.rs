//! Servers whose certificates live for seconds, and the secrets that they share, which live as long.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::platform::{Node, Origin, Platform, SOON};
use crate::wait::until;

/// Short enough to see several secrets come, long enough for a busy machine to renew in time.
pub const A_FEW_SECONDS: Duration = Duration::from_secs(6);

/// Begins the first server of [`PAIR`](crate::platform::PAIR) again, signing certificates of so many seconds, and
/// lets the second host join. The leader of a pair makes a new secret at half of that.
pub async fn join_with_lives_of(platform: &mut Platform, life: Duration) -> anyhow::Result<Node> {
    let first = platform.node_mut("ams")?;
    first.end().await?;
    first.set_arguments(&["--certificate-seconds", &life.as_secs().to_string()]);
    first.start(&Origin::First).await?;
    let control = platform.nodes_address()?;
    let token = platform.client().node_token().await?.token;
    let mut late = Node::new(platform.host("late")?, "nrt");
    late.start(&Origin::Joins { control, token }).await?;
    Ok(late)
}

/// What the two servers share: when the certificate ends under which their secret was made.
pub async fn shared_secret(platform: &Platform) -> anyhow::Result<u64> {
    let found = platform.client().mesh().await?;
    let ways = found.servers.iter().filter_map(|server| server.report.as_ref()).flat_map(|report| &report.ways);
    let until: Vec<_> = ways.map(|way| way.secret_until).collect();
    ensure!(until.len() == 2, "{} ways", until.len());
    ensure!(until[0] == until[1], "they do not mean the same: {until:?}");
    until[0].context("they share none yet")
}

/// Waits until the two share another secret than this one.
pub async fn another_secret(platform: &Platform, than: u64) -> anyhow::Result<u64> {
    let waited = until("a new secret", SOON, async || {
        let now = shared_secret(platform).await?;
        ensure!(now != than, "it is the old one");
        Ok(now)
    });
    Ok(waited.await?.0)
}
