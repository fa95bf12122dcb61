//! The platform's root is replaced while packets and requests flow, servers join, and control is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};

use atoll_lab::address::SERVICE_ADDRESS;
use atoll_model::wire::{AuthorityView, RotationPhase};
use atoll_trial::load::{RunningLoad, Tally};
use atoll_trial::platform::{Node, Origin, PAIR, Platform, Role, SOON};
use atoll_trial::private::{Counted, Pair};
use atoll_trial::short_lives::join_with_lives_of;
use atoll_trial::wait::until;

use crate::support::trial;

/// How long certificates live: a phase is half as much again.
const LIFE: Duration = Duration::from_secs(8);
const A_PHASE: Duration = Duration::from_secs(40);
/// Requests a second.
const RATE: u32 = 20;
/// Packets that are counted at a time.
const PACKETS: usize = 400;

/// Where the pair's app is served.
const SITE: &str = "web.apps.test";

/// Hosts beside the pair: of users, and of servers that join.
const OTHERS: &str = r#"
[[host]]
name = "berlin"
city = "Berlin"
role = "client"

[[host]]
name = "one"
city = "lhr"
role = "client"

[[host]]
name = "two"
city = "lhr"
role = "client"

[[host]]
name = "away"
city = "ord"
role = "client"
"#;

async fn phase(platform: &Platform, wanted: RotationPhase) -> anyhow::Result<AuthorityView> {
    let (view, took) = until(&format!("the root's replacement is {wanted:?}"), A_PHASE, async || {
        let view = platform.client().authority().await?;
        ensure!(view.phase == wanted, "it is {view:?}");
        Ok(view)
    })
    .await?;
    println!("{wanted:?} after {took:.1?}");
    Ok(view)
}

async fn joins(platform: &Platform, node: &mut Node, token: String) -> anyhow::Result<()> {
    let control = platform.nodes_address()?;
    node.start(&Origin::Joins { control, token }).await?;
    platform.heard(node.name(), true).await
}

async fn killed_control(platform: &Platform) -> anyhow::Result<()> {
    let first = platform.node("ams")?;
    let old = first.kill(Role::Control).await?;
    first.replaced(Role::Control, old).await.map(drop)
}

/// Waits until a server gives its users so many roots.
async fn roots(node: &Node, wanted: usize) -> anyhow::Result<()> {
    let file = node.seen_from_outside(&node.state()?.join("ca.pem"))?;
    let what = format!("{} hands out {wanted} roots", node.name());
    let waited = until(&what, A_PHASE, async || {
        let found = std::fs::read_to_string(&file)?.matches("BEGIN CERTIFICATE").count();
        ensure!(found == wanted, "it hands out {found}");
        Ok(())
    });
    waited.await.map(drop)
}

/// A stock client that trusts the roots of this file alone is served.
async fn served(platform: &Platform, roots: &Path) -> anyhow::Result<()> {
    let berlin = platform.host("berlin")?;
    let ca = berlin.disk()?.join("ca.pem");
    std::fs::copy(roots, &ca)?;
    let what = format!("with {}, HTTPS is served", roots.display());
    let waited = until(&what, SOON, async || {
        let mut curl = berlin.command("curl")?;
        curl.args(["-sSf", "--max-time", "5", "--cacert"]).arg(&ca);
        curl.args(["--resolve", &format!("{SITE}:443:{SERVICE_ADDRESS}"), &format!("https://{SITE}/")]);
        let output = curl.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    });
    waited.await.map(drop)
}

#[test]
fn the_root_is_replaced_without_a_lost_packet_or_request_and_servers_join_in_every_phase() {
    trial("rotating", &format!("{PAIR}{OTHERS}"), async |platform| {
        let late = join_with_lives_of(platform, LIFE).await?;
        let pair = Pair::make(platform, ["ams", "nrt"]).await?;
        let load = RunningLoad::start(&platform.host("berlin")?, SITE, RATE)?;
        load.more(20).await?;

        // One that is told nothing of what follows.
        let mut away = Node::new(platform.host("away")?, "ord");
        joins(platform, &mut away, platform.client().node_token().await?.token).await?;
        away.end().await?;

        let over = std::cell::Cell::new(false);
        let rotated = async {
            let outcome = rotate(platform, &late, &mut away).await;
            over.set(true);
            outcome
        };
        let packets = async {
            let mut all = Counted { sent: 0, lost: 0 };
            while !over.get() {
                let counted = pair.count_quick(platform, PACKETS).await?;
                all = Counted { sent: all.sent + counted.sent, lost: all.lost + counted.lost };
            }
            anyhow::Ok(all)
        };
        let (rotated, packets) = tokio::join!(rotated, packets);
        rotated?;
        let (packets, tally) = (packets?, Tally::of(&load.stop().await?));
        println!("{packets:?}, {tally:?}");
        ensure!(packets.lost == 0, "{packets:?}");
        tally.all_well()
    });
}

async fn rotate(platform: &Platform, late: &Node, away: &mut Node) -> anyhow::Result<()> {
    // As a user has taken it along.
    let kept: PathBuf = late.state()?.with_file_name("old-ca.pem");
    let handed_out = late.seen_from_outside(&late.state()?.join("ca.pem"))?;
    std::fs::copy(&handed_out, &kept)?;
    let before = platform.client().authority().await?;
    let early = platform.client().node_token().await?.token;

    let said = platform.atoll(Path::new("/"), &["control", "rotate-root"]).await?;
    ensure!(said.code == Some(0) && said.stdout.contains("comes next"), "{said:?}");
    let said = platform.atoll(Path::new("/"), &["control", "rotate-root"]).await?;
    ensure!(said.code == Some(1) && said.stderr.contains("already"), "{said:?}");
    killed_control(platform).await?;
    let announced = phase(platform, RotationPhase::Announced).await?;
    ensure!(announced.root == before.root, "{announced:?}");
    let mut one = Node::new(platform.host("one")?, "lhr");
    joins(platform, &mut one, early).await?;
    roots(&one, 2).await?;
    roots(late, 2).await?;
    let early = platform.client().node_token().await?.token;

    let overlapping = phase(platform, RotationPhase::Overlapping).await?;
    killed_control(platform).await?;
    ensure!(overlapping.root.fingerprint == announced.other.context("no next root")?.fingerprint, "another root");
    served(platform, &kept).await?;
    served(platform, &handed_out).await?;
    // The token is from before the change.
    let mut two = Node::new(platform.host("two")?, "lhr");
    joins(platform, &mut two, early).await?;

    let settled = phase(platform, RotationPhase::Settled).await?;
    ensure!(settled.root.fingerprint == overlapping.root.fingerprint && settled.other.is_none(), "{settled:?}");
    roots(late, 1).await?;
    served(platform, &kept).await?;
    served(platform, &handed_out).await?;

    // It knows the old root alone, which leads to the new one: it learns that it has to join again.
    away.start(&Origin::HasJoined).await?;
    until("it says that its certificate has lapsed", SOON, async || {
        let log = std::fs::read_to_string(away.host().status()?.logs.join("atoll.log"))?;
        ensure!(log.contains("has lapsed") && log.contains("atoll join"), "it does not");
        Ok(())
    })
    .await?;
    away.end().await?;
    joins(platform, away, platform.client().node_token().await?.token).await?;
    platform.heard(late.name(), true).await
}
