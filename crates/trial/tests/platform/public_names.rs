//! The platform's own DNS servers send users to the nearest edge that serves, and to another one when it
//! does not.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};

use atoll_lab::Host;
use atoll_trial::platform::{Platform, Role, SOON, TWO_REGIONS};
use atoll_trial::wait::until;

use crate::support::trial_with;

const SITE: &str = "web.apps.test";

/// What a client is told at a server.
async fn told(client: &Host, server: Ipv4Addr, name: &str, how: &[&str]) -> anyhow::Result<Vec<Ipv4Addr>> {
    let at = format!("@{server}");
    let output = client.command("dig")?.args(["+short", "+timeout=2", &at, name, "A"]).args(how).output().await?;
    ensure!(output.status.success(), "dig {name}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stdout)?.lines().filter_map(|line| line.parse().ok()).collect())
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
