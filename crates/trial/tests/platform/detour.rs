//! Where the link between two servers is bad, their private traffic goes over a third one.

use std::time::Duration;

use anyhow::ensure;

use atoll_trial::detour::{FAR, Fault, NEAR, THIRD, TRIANGLE, prepare, stay_calm, strike_and_heal};
use atoll_trial::platform::{Role, SOON};
use atoll_trial::wait::until;

use crate::support::trial;

/// By when packets must have left a bad link, and be back on a well one.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn private_traffic_goes_around_a_bad_link_and_returns_and_connections_live_on() {
    trial("detour", TRIANGLE, async |platform| {
        let pair = prepare(platform).await?;
        for fault in Fault::ALL {
            // Answered only while the link is bad.
            let url = format!("http://[{}]:8080/busy/2500", pair.far.address);
            let asked = ["--silent", "--fail", "--globoff", "--max-time", "30", &url];
            let ams = platform.node(NEAR)?;
            let (under_way, detour) =
                tokio::join!(ams.in_machine(&pair.near.id, "curl", &asked), strike_and_heal(platform, &pair, fault));
            let (under_way, detour) = (under_way?, detour?);
            println!("{fault:?}: {detour:.1?}");
            ensure!(under_way.status.success(), "{fault:?}: a connection was lost: {under_way:?}");
            ensure!(detour.left <= LIMIT && detour.back <= LIMIT, "{fault:?}: {detour:.1?}");
            stay_calm(platform, &pair).await?;
        }

        // While they need it, any of the three may lose its net process.
        platform.lab().cut(NEAR, FAR).await?;
        pair.reached(platform).await?;
        for name in [THIRD, NEAR, FAR] {
            let node = platform.node(name)?;
            let net = node.pid(Role::Net)?;
            node.signal(net, "KILL").await?;
            node.replaced(Role::Net, net).await?;
            let took = pair.reached(platform).await?;
            println!("{name} lost its net process: packets go again after {took:.1?}");
        }

        until("the doctor names the detour", SOON, async || {
            let found = platform.client().mesh().await?;
            ensure!(found.findings.iter().any(|finding| finding.problem.contains("goes over fra")), "{found:?}");
            Ok(())
        })
        .await?;
        Ok(())
    });
}
