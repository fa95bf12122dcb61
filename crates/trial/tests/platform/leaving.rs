//! Servers that are given up, with their machines: in time, and too late.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

use atoll_model::wire::NodeSummary;
use atoll_trial::load::{RunningLoad, Shot, Tally};
use atoll_trial::platform::{MachineSpec, Platform, Release, SOON, THREE_REGIONS, see};
use atoll_trial::visit::{Ask, ask};
use atoll_trial::wait::until;

use crate::support::trial;

/// Two servers of one region beside the one that runs control, and a user near them.
pub const SPARE: &str = r#"
[[host]]
name = "ord"
city = "ord"
role = "node"

[[host]]
name = "ams1"
city = "ams"
role = "node"

[[host]]
name = "ams2"
city = "ams"
role = "node"

[[host]]
name = "berlin"
city = "Berlin"
role = "client"
"#;
const RATE: u32 = 40;
/// An answer that comes takes a hundredth of it.
const PATIENCE: Duration = Duration::from_secs(3);

async fn node(platform: &Platform, name: &str) -> anyhow::Result<NodeSummary> {
    let nodes = platform.client().nodes().await?;
    nodes.into_iter().find(|node| node.name.as_str() == name).with_context(|| format!("{name} is not listed"))
}

/// The server that the app's only machine is on, with the machine's id.
async fn home(platform: &Platform, app: &str) -> anyhow::Result<(String, String)> {
    let machines = platform.client().machines(app).await?;
    let [machine] = &machines[..] else { anyhow::bail!("{} machines instead of one", machines.len()) };
    Ok((machine.node.to_string(), machine.id.to_string()))
}

#[test]
fn a_drained_server_loses_its_machines_and_no_request() {
    trial("drained", SPARE, async |platform| {
        let site = platform.create_app("hello").await?;
        let said = platform.deploy("hello", &Release { name: "one", ..Release::default() }, &["ams"]).await?;
        ensure!(said.code == Some(0), "the deploy: {said:?}");
        let (old, _) = home(platform, "hello").await?;
        let other = if old == "ams1" { "ams2" } else { "ams1" };
        // Made by hand and at rest; and one that has nowhere to go.
        platform.create_app("resting").await?;
        let spec = MachineSpec { region: "ams", ..MachineSpec::default() };
        let resting = platform.create_machine("resting", &spec).await?;
        platform.stop_machine("resting", &resting).await?;
        let resting_home = home(platform, "resting").await?.0;

        let load = RunningLoad::start(&platform.host("berlin")?, &site, RATE)?;
        load.more(40).await?;
        let mut draining = vec![old.as_str(), resting_home.as_str()];
        draining.dedup();
        for name in draining {
            let said = platform.atoll(Path::new("/"), &["node", "drain", name]).await?;
            ensure!(said.code == Some(0), "draining {name}: {said:?}");
            println!("{}", said.stderr);
            if name == old {
                ensure!(said.stderr.contains(&format!("moving to {other}")), "{said:?}");
                ensure!(node(platform, name).await?.machines == 0, "{name} still has machines");
            }
        }
        load.more(60).await?;
        let shots = load.stop().await?;
        let tally = Tally::of(&shots);
        println!("{tally:?}");
        tally.all_well()?;
        ensure!(seen_machines(&shots).len() == 2, "machines that answered: {:?}", seen_machines(&shots));
        if old != resting_home {
            // Both are drained now, so a machine of the second one stays, and serves.
            let left = node(platform, &resting_home).await?.leaving;
            ensure!(left.iter().all(|machine| machine.to.is_none() && machine.why.contains("ams")), "{left:?}");
        }
        platform.served("berlin", "resting.apps.test").await?;

        let said = platform.atoll(Path::new("/"), &["node", "drain", "--undo", &old]).await?;
        ensure!(said.code == Some(0), "the undo: {said:?}");
        ensure!(node(platform, &old).await?.state == atoll_model::row::NodeState::Active, "it is still drained");
        Ok(())
    });
}

fn seen_machines(shots: &[Shot]) -> BTreeSet<&str> {
    shots.iter().filter_map(|shot| shot.machine.as_deref()).collect()
}

#[test]
fn a_lost_servers_machines_are_made_again_and_it_may_not_come_back() {
    trial("lost", SPARE, async |platform| {
        let site = platform.create_app("hello").await?;
        let said = platform.deploy("hello", &Release { name: "one", ..Release::default() }, &["ams"]).await?;
        ensure!(said.code == Some(0), "the deploy: {said:?}");
        let (old, id) = home(platform, "hello").await?;
        let before = platform.served("berlin", &site).await?;

        // Cut off, it goes on; its platform gives it up.
        let others = ["ord", "ams1", "ams2", "berlin"];
        for other in others.into_iter().filter(|other| *other != old) {
            platform.lab().cut(&old, other).await?;
        }
        let said = platform.atoll(Path::new("/"), &["node", "remove", "--lost", &old]).await?;
        ensure!(said.code == Some(0), "the removal: {said:?}");
        let after = platform.served_as("berlin", &site, |seen| seen.who.boot_id != before.who.boot_id).await?;
        ensure!(after.who.machine == id, "it was made again as {}", after.who.machine);
        ensure!(home(platform, "hello").await?.0 != old, "control still sees it on {old}");

        let lost = platform.node(&old)?;
        ensure!(lost.processes("hello").await? == 1, "nobody has told it yet");
        platform.lab().heal_host(&old).await?;
        // Fenced, it stops what it ran: a machine has one owner.
        until("the lost server has stopped its machine", SOON, async || {
            ensure!(lost.processes("hello").await? == 0, "it still runs");
            Ok(())
        })
        .await?;
        let seen = platform.served("berlin", &site).await?;
        ensure!(seen.who.boot_id == after.who.boot_id, "{seen:?}");
        Ok(())
    });
}

#[test]
fn a_server_that_leaves_leaves_nothing_on_its_host() {
    trial("left", SPARE, async |platform| {
        platform.create_app("hello").await?;
        let spec = MachineSpec { region: "ams", ..MachineSpec::default() };
        let id = platform.create_machine("hello", &spec).await?;
        platform.in_state("hello", &id, atoll_model::MachineState::Started).await?;
        let (name, _) = home(platform, "hello").await?;
        let node = platform.node_mut(&name)?;
        let state = node.state()?.display().to_string();
        let program = atoll_trial::programs::atoll()?;

        let refused = node.run(&program, &["leave", "--state", &state]).await?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("already running"), "{said}");
        node.end().await?;
        let (left, _) = until("its processes have ended and it leaves", SOON, async || {
            let left = node.run(&program, &["leave", "--state", &state]).await?;
            ensure!(left.status.success(), "{}", String::from_utf8_lossy(&left.stderr));
            Ok(String::from_utf8_lossy(&left.stdout).into_owned())
        })
        .await?;
        println!("{left}");
        ensure!(left.contains("1 machines ended"), "{left}");
        ensure!(node.processes("hello").await? == 0, "its machine still runs");
        for (what, question) in [
            ("a route", "ip route | grep blackhole"),
            ("a table", "nft list tables | grep atoll-"),
            ("a link", "ip -o link | grep ': atl'"),
        ] {
            let found = node.run("sh", &["-c", question]).await?;
            ensure!(found.stdout.is_empty(), "{what} is left: {}", String::from_utf8_lossy(&found.stdout));
        }
        let again = node.run(&program, &["leave", "--state", &state]).await?;
        ensure!(String::from_utf8_lossy(&again.stderr).contains("has left"), "{again:?}");
        Ok(())
    });
}

#[test]
fn a_revoked_server_is_accepted_by_nobody() {
    trial("revoked", THREE_REGIONS, async |platform| {
        let site = platform.create_app("hello").await?;
        let spec = MachineSpec { region: "ams", ..MachineSpec::default() };
        platform.create_machine("hello", &spec).await?;
        let (osaka, berlin) = (platform.host("osaka")?, platform.host("berlin")?);
        let seen = platform.served("osaka", &site).await?;
        ensure!(seen.edge == "nrt", "the edge {} forwarded", seen.edge);

        let said = platform.atoll(Path::new("/"), &["node", "revoke", "nrt"]).await?;
        ensure!(said.code == Some(0), "the revocation: {said:?}");
        // Its connection is open and its certificate good for an hour.
        until("nothing that it forwards is answered", SOON, async || {
            // Without an answer it holds the request, in case a way to the machine comes back.
            let answer = tokio::time::timeout(PATIENCE, ask(&osaka, &Ask::get(&site, "/"))).await;
            if let Ok(Ok(answer)) = answer {
                ensure!(!answer.status.is_success(), "{}", answer.status);
            }
            Ok(())
        })
        .await?;
        ensure!(node(platform, "nrt").await?.state == atoll_model::row::NodeState::Revoked, "it is not revoked");
        see(&berlin, &Ask::get(&site, "/")).await?;
        let spec = MachineSpec { region: "nrt", ..MachineSpec::default() };
        let placed = platform.create_machine("hello", &spec).await;
        ensure!(placed.is_err(), "a machine was placed there: {placed:?}");
        Ok(())
    });
}
