//! Bytes of machines are counted by how far they went.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};

use atoll_trial::platform::{Node, Platform, Role, RunningMachine, SOON};
use atoll_trial::wait::until;

use crate::leaving::SPARE;
use crate::support::trial;

const APP: &str = "web";
/// Of a packet with this payload, with the headers of ICMP and IPv6.
const PAYLOAD: &str = "1000";
const PACKET: u64 = 1048;
const TO_NEIGHBOUR: u64 = 20;
const FAR_AWAY: u64 = 40;

async fn bytes(node: &Node, class: &str, direction: &str) -> anyhow::Result<u64> {
    let labels = [("class", class), ("direction", direction)];
    node.metric(Role::Worker, "atoll_worker_network_bytes_total", &labels).await
}

async fn send(node: &Node, from: &str, to: &RunningMachine, packets: u64) -> anyhow::Result<()> {
    let (count, to) = (packets.to_string(), to.address.to_string());
    let arguments = ["-6", "-q", "-i", "0.02", "-s", PAYLOAD, "-c", &count, &to];
    let output = node.in_machine(from, "ping", &arguments).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// A machine on each of the region's two servers, by their names.
async fn neighbours(platform: &Platform) -> anyhow::Result<BTreeMap<String, RunningMachine>> {
    let mut found = BTreeMap::new();
    // The scheduler prefers the emptier server, but promises nothing.
    for _ in 0..6 {
        let machine = platform.running_machine(APP, "ams").await?;
        let all = platform.client().machines(APP).await?;
        let made = all.iter().find(|other| other.id.to_string() == machine.id).context("it is not listed")?;
        found.insert(made.node.to_string(), machine);
        if found.len() == 2 {
            return Ok(found);
        }
    }
    anyhow::bail!("all are on one server")
}

#[test]
fn bytes_within_the_region_are_told_from_those_that_leave_it() {
    trial("counted", SPARE, async |platform| {
        platform.create_app(APP).await?;
        let far = platform.running_machine(APP, "ord").await?;
        let mut near = neighbours(platform).await?;
        let (name, from) = near.pop_first().context("no machine")?;
        let (_, neighbour) = near.pop_first().context("no neighbour")?;
        let node = platform.node(&name)?;

        // Until then a neighbour counts as far away.
        until("the server knows who is in its region", SOON, async || {
            let rules = node.run("nft", &["list", "ruleset"]).await?;
            let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
            ensure!(rules.contains(&neighbour.address.to_string()), "{rules}");
            ensure!(!rules.contains(&far.address.to_string()), "{rules}");
            Ok(())
        })
        .await?;
        for (to, packets) in [(&neighbour, TO_NEIGHBOUR), (&far, FAR_AWAY)] {
            until("packets pass", SOON, async || send(node, &from.id, to, packets).await).await?;
        }
        until("they are counted", SOON, async || {
            for direction in ["sent", "received"] {
                for (class, packets) in [("same_region", TO_NEIGHBOUR), ("cross_region", FAR_AWAY)] {
                    let counted = bytes(node, class, direction).await?;
                    // Tries that were not answered throughout are counted, too.
                    let expected = packets * PACKET..2 * packets * PACKET;
                    ensure!(expected.contains(&counted), "{class} {direction}: {counted} instead of {expected:?}");
                }
            }
            ensure!(bytes(node, "same_node", "sent").await? == 0, "nobody sent anything on this server");
            Ok(())
        })
        .await?;
        Ok(())
    });
}
