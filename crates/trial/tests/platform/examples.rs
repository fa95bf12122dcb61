//! Apps that were not made for this platform, deployed as their READMEs say: served through an edge,
//! stopped when idle, woken by a request.

use anyhow::{Context, ensure};
use serde_json::Value;

use atoll_client::LogQuery;
use atoll_model::MachineState;
use atoll_trial::platform::{APP_DOMAIN, ONE_REGION, Platform, SOON, Shipped};
use atoll_trial::visit::{Answer, Ask, ask};
use atoll_trial::wait::until;

use crate::support::trial;

/// Soon enough to wait for, late enough for what a trial asks in between.
const IDLE: &str = "3s";

async fn get(platform: &Platform, app: &str, path: &str) -> anyhow::Result<Answer> {
    let site = format!("{app}.{APP_DOMAIN}");
    let answer = ask(&platform.host("berlin")?, &Ask::get(&site, path)).await?;
    ensure!(answer.status.is_success(), "{site}{path}: {} {:?}", answer.status, answer.body);
    Ok(answer)
}

/// Waits until an app's log holds a line with a text.
async fn logged(platform: &Platform, app: &str, wanted: &str) -> anyhow::Result<()> {
    let query = LogQuery { tail: 200, ..LogQuery::default() };
    until(&format!("the log of {app} says {wanted:?}"), SOON, async || {
        let mut lines = platform.client().logs(app, &query).await?;
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await? {
            if line.message.contains(wanted) {
                return Ok(());
            }
            seen.push(line.message);
        }
        anyhow::bail!("it says {seen:?}")
    })
    .await
    .map(drop)
}

async fn only_machine(platform: &Platform, app: &str) -> anyhow::Result<String> {
    let machines = platform.client().machines(app).await?;
    let [machine] = machines.as_slice() else { anyhow::bail!("{app} has machines {machines:?}") };
    Ok(machine.id.to_string())
}

#[test]
fn real_servers_run_as_they_are() {
    trial("examples", ONE_REGION, async |platform| {
        node(platform).await.context("the Node.js server")?;
        nginx(platform).await.context("nginx")
    });
}

async fn node(platform: &Platform) -> anyhow::Result<()> {
    let said = platform
        .deploy_shipped(&Shipped { example: "node", app: "counter", secrets: &["GREETING=hello"], idle: IDLE })
        .await?;
    ensure!(said.code == Some(0), "{said:?}");
    let id = only_machine(platform, "counter").await?;
    let first: Value = serde_json::from_slice(&get(platform, "counter", "/").await?.body)?;
    ensure!(first["machine"] == *id && first["region"] == "ams" && first["counter"] == 1, "{first}");
    ensure!(get(platform, "counter", "/greeting").await?.body == "{\"greeting\":\"hello\"}\n", "another greeting");
    logged(platform, "counter", "listens on 8080").await?;

    // Its goodbye shows that it was told to stop and given the time to.
    platform.in_state("counter", &id, MachineState::Stopped).await?;
    logged(platform, "counter", "stopping after 1 answers").await?;
    let answer = get(platform, "counter", "/").await?;
    let woken: Value = serde_json::from_slice(&answer.body)?;
    ensure!(woken["machine"] == *id && woken["boot_id"] != first["boot_id"] && woken["counter"] == 1, "{woken}");
    println!("Node.js woken in {:.1?}", answer.took);
    Ok(())
}

async fn nginx(platform: &Platform) -> anyhow::Result<()> {
    let said = platform.deploy_shipped(&Shipped { example: "nginx", app: "site", secrets: &[], idle: IDLE }).await?;
    ensure!(said.code == Some(0), "{said:?}");
    let id = only_machine(platform, "site").await?;
    let first = get(platform, "site", "/").await?;
    ensure!(first.body.starts_with(b"<!doctype html>"), "{first:?}");
    ensure!(first.headers.get("x-served-by").is_some_and(|name| name == &*id), "{first:?}");
    // Its access log is a link to /dev/stdout.
    logged(platform, "site", "\"GET / HTTP/1.1\" 200").await?;

    platform.in_state("site", &id, MachineState::Stopped).await?;
    let answer = get(platform, "site", "/").await?;
    ensure!(answer.headers.get("x-served-by").is_some_and(|name| name == &*id), "{answer:?}");
    println!("nginx woken in {:.1?}", answer.took);
    Ok(())
}
