//! Where the way between two servers carries smaller packets than others, so does the mesh.

use anyhow::ensure;

use atoll_trial::platform::{Platform, SOON, TWO_REGIONS};
use atoll_trial::private::Pair;
use atoll_trial::wait::until;

use crate::support::trial;

/// What the way carries, and what is left of it by the mesh's own headers and those of IPv6 and ICMP.
const WAY: u16 = 1400;
const LINK: u16 = 1320;
const PAYLOAD: u16 = 1272;
const BODY: usize = 1_000_000;

#[test]
fn packets_become_as_small_as_the_way_between_two_servers_needs_them() {
    trial("narrow-way", TWO_REGIONS, async |platform| {
        let pair = Pair::make(platform, ["ams", "nrt"]).await?;
        fits(platform, 1500, 1420).await?;
        // What is larger is dropped in silence on the way there, and not sent on the way back.
        let uplink = ["link", "set", "eth0", "mtu", &WAY.to_string()];
        let narrowed = platform.node("nrt")?.run("ip", &uplink).await?;
        ensure!(narrowed.status.success(), "{narrowed:?}");
        fits(platform, WAY, LINK).await?;

        for (payload, passes) in [(PAYLOAD, true), (PAYLOAD + 1, false)] {
            let (payload, far) = (payload.to_string(), pair.far.address.to_string());
            let arguments = ["-6", "-c", "3", "-W", "2", "-M", "do", "-s", &payload, &far];
            let answered = platform.node("ams")?.in_machine(&pair.near.id, "ping", &arguments).await?;
            ensure!(answered.status.success() == passes, "{payload} bytes: {answered:?}");
        }
        let transfer = format!(
            "head -c {BODY} /dev/zero | curl --silent --fail --globoff --max-time 30 --data-binary @- \
             'http://[{}]:8080/echo' | wc -c",
            pair.far.address
        );
        let echoed = platform.node("ams")?.in_machine(&pair.near.id, "sh", &["-c", &transfer]).await?;
        let length = String::from_utf8_lossy(&echoed.stdout).trim().to_owned();
        ensure!(length == BODY.to_string(), "{length} bytes came back: {echoed:?}");
        Ok(())
    });
}

/// Waits until both servers know what the way carries, and their links take no more.
async fn fits(platform: &Platform, way: u16, link: u16) -> anyhow::Result<()> {
    until(&format!("packets of {way} bytes are found to pass"), SOON, async || {
        let found = platform.client().mesh().await?;
        for server in &found.servers {
            let report = server.report.as_ref().filter(|report| report.mtu == link);
            let ways = report.map(|report| report.ways.iter().filter(|found| found.path_mtu == Some(way)).count());
            ensure!(ways == Some(1), "{found:?}");
        }
        Ok(())
    })
    .await?;
    Ok(())
}
