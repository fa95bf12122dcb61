//! The platform's own DNS servers send users to the nearest edge that serves, and to another one when it
//! does not; they answer what certificate authorities ask for as soon as it is said.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

use atoll_lab::Host;
use atoll_trial::platform::{Platform, Role, SOON, TWO_REGIONS};
use atoll_trial::wait::until;

use crate::support::trial_with;

const SITE: &str = "web.apps.test";

/// A client's question at a server: the lines of the answer.
async fn asked(client: &Host, server: Ipv4Addr, name: &str, how: &[&str]) -> anyhow::Result<Vec<String>> {
    let at = format!("@{server}");
    let output = client.command("dig")?.args(["+short", "+timeout=2", &at, name]).args(how).output().await?;
    ensure!(output.status.success(), "dig {name}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// What a client is told at a server.
async fn told(client: &Host, server: Ipv4Addr, name: &str, how: &[&str]) -> anyhow::Result<Vec<Ipv4Addr>> {
    let lines = asked(client, server, name, &[how, &["A"]].concat()).await?;
    Ok(lines.iter().filter_map(|line| line.parse().ok()).collect())
}

async fn is_told(platform: &Platform, client: &str, server: Ipv4Addr, wanted: Ipv4Addr) -> anyhow::Result<()> {
    let client = platform.host(client)?;
    until(&format!("{} is told {wanted} by {server}", client.name()), SOON, async || {
        let found = told(&client, server, SITE, &[]).await?;
        ensure!(found == [wanted], "it is told {found:?}");
        Ok(())
    })
    .await?;
    Ok(())
}

/// Values of a certificate authority are answered by every server as soon as the command returns; it names those
/// that do not answer.
async fn challenges(platform: &Platform, folder: &Path) -> anyhow::Result<()> {
    let [ams, nrt] = [platform.host("ams")?.ipv4()?, platform.host("nrt")?.ipv4()?];
    let client = platform.host("berlin")?;
    let says = async |words: &[&str], code: i32| {
        let said = platform.atoll(folder, &[&["dns", "challenge"], words].concat()).await?;
        ensure!(said.code == Some(code), "{words:?}: {said:?}");
        anyhow::Ok(said)
    };
    let add = async |value: &str| -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&says(&["add", SITE, value, "--json"], 0).await?.stdout)?)
    };
    let values = async |server| {
        let mut values = asked(&client, server, &format!("_acme-challenge.{SITE}"), &["TXT"]).await?;
        values.sort();
        anyhow::Ok(values)
    };
    until("both servers are known to answer", SOON, async || {
        let added = add("first").await?;
        ensure!(added["answered_by"] == serde_json::json!(["ams", "nrt"]), "{added}");
        Ok(())
    })
    .await?;
    let added = add("second").await?;
    ensure!(added["waiting_for"] == serde_json::json!([]), "{added}");
    for server in [ams, nrt] {
        let found = values(server).await?;
        ensure!(found == ["\"first\"", "\"second\""], "{server} answers {found:?}");
    }
    let refused = says(&["add", "www.elsewhere.test", "value"], 1).await?;
    ensure!(refused.stderr.contains("no server answers public DNS for www.elsewhere.test"), "{refused:?}");
    says(&["add", SITE, "two words"], 2).await?;
    says(&["add", SITE, "value", "--expiry", "1s"], 2).await?;

    says(&["remove", SITE, "first"], 0).await?;
    says(&["remove", SITE, "first"], 4).await?;
    let listed = says(&["list", SITE], 0).await?;
    ensure!(listed.stdout.contains("second") && !listed.stdout.contains("first"), "{listed:?}");
    until("the value is gone everywhere", SOON, async || {
        ensure!(values(ams).await? == ["\"second\""] && values(nrt).await? == ["\"second\""]);
        Ok(())
    })
    .await?;

    let far = platform.node("nrt")?;
    let net = far.pid(Role::Net)?;
    far.signal(net, "STOP").await?;
    let added = add("third").await;
    far.signal(net, "CONT").await?;
    let added = added?;
    ensure!(added["waiting_for"] == serde_json::json!(["nrt"]), "{added}");
    until("the server that was silent answers by it, too", SOON, async || {
        ensure!(values(nrt).await? == ["\"second\"", "\"third\""]);
        Ok(())
    })
    .await?;
    says(&["remove", SITE], 0).await?;
    ensure!(says(&["list"], 0).await?.stdout.lines().count() == 1, "something is left");
    Ok(())
}

#[test]
fn users_are_told_the_nearest_edge_that_serves() {
    let folder = tempfile::tempdir().unwrap();
    let places = folder.path().join("places.csv");
    let zones = folder.path().join("zones.toml");
    std::fs::write(&places, "").unwrap();
    std::fs::write(
        &zones,
        format!("servers = [{{ name = \"ns1.example.org\" }}]\nplaces = {:?}\n", places.display().to_string()),
    )
    .unwrap();
    let arguments = ["--dns", "0.0.0.0:53", "--dns-zones", zones.to_str().unwrap()];
    trial_with("public_names", TWO_REGIONS, &arguments, async |platform| {
        platform.create_app("web").await?;
        let [ams, nrt] = [platform.host("ams")?.ipv4()?, platform.host("nrt")?.ipv4()?];
        let (berlin, osaka) = (platform.host("berlin")?, platform.host("osaka")?);
        // Nobody says where these clients are: they are taken to be where they ask.
        is_told(platform, "berlin", ams, ams).await?;
        is_told(platform, "osaka", nrt, nrt).await?;
        ensure!(told(&berlin, ams, "none.apps.test", &[]).await?.is_empty(), "a name that nobody has");
        ensure!(told(&berlin, ams, SITE, &["+tcp"]).await? == [ams], "over TCP");

        challenges(platform, folder.path()).await.context("challenges")?;

        // From now on a table says it.
        std::fs::write(&places, format!("{}/32,nrt\n", osaka.ipv4()?))?;
        let node = platform.node("ams")?;
        let net = node.pid(Role::Net)?;
        node.signal(net, "TERM").await?;
        node.replaced(Role::Net, net).await?;
        is_told(platform, "osaka", ams, nrt).await?;
        is_told(platform, "berlin", ams, ams).await?;

        platform.client().node_change("nrt", "drain", false).await.context("drain")?;
        is_told(platform, "osaka", ams, ams).await?;
        is_told(platform, "osaka", nrt, ams).await
    });
}
