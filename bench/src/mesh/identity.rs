//! What servers' identities cost the mesh of a whole platform: packets lost while secrets change, and how long a
//! revoked server is still heard.

use anyhow::ensure;

use atoll_trial::platform::{PAIR, Platform, SOON, TWO_REGIONS};
use atoll_trial::private::Pair;
use atoll_trial::short_lives::{A_FEW_SECONDS, another_secret, join_with_lives_of, shared_secret};
use atoll_trial::wait::until;

use crate::figure::Samples;

/// Secrets that change while packets flow.
const SECRETS: usize = 5;
/// More than flow meanwhile.
const PACKETS: usize = 4_000;
/// Platforms of which a server is revoked.
const REVOCATIONS: usize = 3;

/// Packets that were lost.
pub async fn rotation() -> anyhow::Result<u64> {
    let mut platform = Platform::start(PAIR).await?;
    let _late = join_with_lives_of(&mut platform, A_FEW_SECONDS).await?;
    let (mut secret, _) = until("the first secret", SOON, async || shared_secret(&platform).await).await?;
    let pair = Pair::make(&platform, ["ams", "nrt"]).await?;
    let changing = async {
        for _ in 0..SECRETS {
            secret = another_secret(&platform, secret).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let (counted, changed) = tokio::join!(pair.count_quick(&platform, PACKETS), changing);
    changed?;
    let counted = counted?;
    ensure!(counted.sent == PACKETS as u64, "{counted:?}");
    Ok(counted.lost)
}

/// Seconds from the giving of the order until the last packet of a revoked server was answered.
pub async fn revocation() -> anyhow::Result<Samples> {
    let mut taken = Vec::new();
    for _ in 0..REVOCATIONS {
        let platform = Platform::start(TWO_REGIONS).await?;
        let pair = Pair::make(&platform, ["ams", "nrt"]).await?;
        let revoke = async || Ok(platform.client().node_change("nrt", "revoke", false).await.map(drop)?);
        taken.push(pair.until_none_passes(&platform, revoke).await?.as_secs_f64());
    }
    Ok(taken.into_iter().collect())
}
