//! A POST is executed once at most, whatever happens to the machine that has it; and exactly once if its
//! client was told so.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use atoll_client::LogQuery;
use atoll_lab::address::SERVICE_ADDRESS;
use atoll_trial::platform::bridge::connect;
use atoll_trial::platform::{MachineSpec, ONE_REGION, Platform, SOON};
use atoll_trial::visit::{Ask, ask};
use atoll_trial::wait::until;

use crate::support::trial;

const APP: &str = "shop";

async fn two_machines(platform: &Platform, restart: &str) -> anyhow::Result<(String, Vec<String>)> {
    let site = platform.create_app(APP).await?;
    let spec = MachineSpec { region: "ams", restart, ..MachineSpec::default() };
    let ids = vec![platform.create_machine(APP, &spec).await?, platform.create_machine(APP, &spec).await?];
    for id in &ids {
        platform.served_as("berlin", &site, |seen| seen.who.machine == *id).await?;
    }
    Ok((site, ids))
}

/// Which machines executed what, by their logs, which outlive them.
async fn executions(platform: &Platform) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let query = LogQuery { tail: 10_000, ..LogQuery::default() };
    let mut lines = platform.client().logs(APP, &query).await?;
    let mut executions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let Some(line) = lines.next().await? {
        if let Some(key) = line.message.strip_prefix("executed ") {
            executions.entry(key.trim().to_owned()).or_default().push(line.machine.to_string());
        }
    }
    Ok(executions)
}

/// Begins a POST, kills what `kill` says once a machine executes it, and gives what the client gets.
async fn killed_midway(
    platform: &Platform,
    site: &str,
    key: &str,
    kill: impl AsyncFn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let berlin = platform.host("berlin")?;
    let mut client = connect(&berlin, (SERVICE_ADDRESS, 80).into()).await?;
    let head =
        format!("POST /once/{key} HTTP/1.1\r\nHost: {site}\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n");
    client.write_all(head.as_bytes()).await?;
    client.write_all(&[b'x'; 500]).await?;
    let (machine, _) = until("a machine executes the request", SOON, async || {
        executions(platform).await?.remove(key).and_then(|mut machines| machines.pop()).context("none does")
    })
    .await?;
    kill(&machine).await?;
    // The rest, as an ordinary client would send it; the edge may have hung up already.
    client.write_all(&[b'x'; 500]).await.ok();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), client.read_to_end(&mut answer)).await;
    // A reset is an error that the client sees, too.
    read.context("the client was left waiting")?.ok();
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn a_post_whose_machine_is_killed_midway_fails_and_is_not_executed_again() {
    trial("post_killed", ONE_REGION, async |platform| {
        let (site, ids) = two_machines(platform, "no").await?;
        let node = platform.node("ams")?;
        let kill_shim = async |machine: &str| node.signal(node.shim(machine).await?, "KILL").await;
        let kill_app = async |machine: &str| node.signal(node.app_process(machine).await?, "KILL").await;

        let first = killed_midway(platform, &site, "by-shim", kill_shim).await?;
        ensure!(first.starts_with("HTTP/1.1 502"), "the client was told {first:?}");
        // The other machine is well, and has not been bothered with it.
        let count = ask(&platform.host("berlin")?, &Ask::get(&site, "/once/by-shim")).await?;
        ensure!(count.status == StatusCode::OK && count.body == "0", "the other machine: {count:?}");

        for id in &ids {
            platform.start_machine(APP, id).await?;
            platform.served_as("berlin", &site, |seen| seen.who.machine == *id).await?;
        }
        let second = killed_midway(platform, &site, "by-app", kill_app).await?;
        ensure!(second.starts_with("HTTP/1.1 502"), "the client was told {second:?}");
        let count = ask(&platform.host("berlin")?, &Ask::get(&site, "/once/by-app")).await?;
        ensure!(count.status == StatusCode::OK && count.body == "0", "the other machine: {count:?}");

        let executions = executions(platform).await?;
        ensure!(executions.values().all(|machines| machines.len() == 1), "{executions:?}");
        Ok(())
    });
}

#[test]
fn posts_are_executed_exactly_once_while_machines_are_killed() {
    /// A killed machine comes back before the next one is killed, so that one always lives.
    const ROUNDS: usize = 4;
    const EACH: usize = 60;
    trial("posts_once", ONE_REGION, async |platform| {
        let (site, ids) = two_machines(platform, "always").await?;
        let berlin = platform.host("berlin")?;
        let node = platform.node("ams")?;
        let mut told = BTreeMap::new();
        for round in 0..ROUNDS {
            let victim = &ids[round % ids.len()];
            let process = node.app_process(victim).await?;
            let posts = (0..EACH).map(|number| {
                let (berlin, site) = (&berlin, &site);
                async move {
                    // Spread over the kill and what follows.
                    tokio::time::sleep(Duration::from_millis(10) * number as u32).await;
                    let key = format!("{round}-{number}");
                    let path = format!("/once/{key}");
                    let answer = ask(berlin, &Ask::post(site, &path)).await;
                    (key, answer.is_ok_and(|answer| answer.status == StatusCode::OK))
                }
            });
            let kill = async {
                tokio::time::sleep(Duration::from_millis(150)).await;
                node.signal(process, "KILL").await
            };
            let (killed, answers) = tokio::join!(kill, futures_util::future::join_all(posts));
            killed?;
            told.extend(answers);
            platform.served_as("berlin", &site, |seen| seen.who.machine == *victim).await?;
        }
        let succeeded = told.values().filter(|succeeded| **succeeded).count();
        let (executions, _) = until("the logs have every success", SOON, async || {
            let executions = executions(platform).await?;
            let missing = told.iter().find(|(key, succeeded)| **succeeded && !executions.contains_key(*key));
            ensure!(missing.is_none(), "{missing:?} succeeded and was never executed");
            Ok(executions)
        })
        .await?;
        println!("{} POSTs, {succeeded} succeeded, {} executed, {ROUNDS} kills", told.len(), executions.len());
        let twice: Vec<_> = executions.iter().filter(|(_, machines)| machines.len() > 1).collect();
        ensure!(twice.is_empty(), "executed more than once: {twice:?}");
        // Only what was under way in the moment of a kill may have failed.
        ensure!(succeeded >= told.len() - ROUNDS * 3, "only {succeeded} of {} succeeded", told.len());
        Ok(())
    });
}
