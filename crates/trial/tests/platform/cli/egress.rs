//! `atoll ips allocate-egress`: addresses that lead back to a server, and machines that leave under them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, ensure};

use atoll_trial::platform::{Node, Role, SOON, example_of};
use atoll_trial::wait::until;

use super::User;

/// What the operator tells every server.
pub const ARGUMENTS: [&str; 2] = ["--egress-address", "192.0.2.70,2001:db8:9::70"];
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 70);

/// Answers whoever connects with the address that it came from.
fn serve(listener: TcpListener) {
    while let Ok((mut stream, peer)) = listener.accept() {
        let told = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", peer.ip());
        // Whoever has gone away has not been seen.
        stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(told.as_bytes())).ok();
    }
}

async fn seen_as(node: &Node, machine: &str, server: SocketAddr) -> anyhow::Result<String> {
    let arguments = ["-sS", "--max-time", "5", &format!("http://{server}/")];
    let output = node.in_machine(machine, "curl", &arguments).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// With an app `site` on the world's only server.
pub async fn machines_leave(user: &User<'_>) -> anyhow::Result<()> {
    let (node, outside) = (user.platform.node("ams")?, user.platform.host("berlin")?);
    let (own, there) = (node.host().ipv4()?, outside.ipv4()?);
    let mut route = outside.command("ip")?;
    let back = route.args(["route", "add", &OWN.to_string(), "via", &own.to_string()]).output().await?;
    ensure!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    let listener = outside.in_network(move || TcpListener::bind((there, 0))).await??;
    let server = listener.local_addr()?;
    std::thread::spawn(move || serve(listener));

    user.platform.import_example("hello", &example_of("site")).await?;
    let first = user.platform.running_machine("site", "ams").await?.id;
    ensure!(
        seen_as(node, &first, server).await? == own.to_string(),
        "it leaves under another address than its server's"
    );
    let elsewhere = user.fails(1, &["ips", "allocate-egress", "-a", "site", "-r", "nrt"]).await?;
    ensure!(elsewhere.contains("no server in nrt has IPv4 and IPv6 addresses to leave under"), "{elsewhere}");
    let (given, _) = until("the server's addresses are known", SOON, async || {
        user.ok(&["ips", "allocate-egress", "-a", "site", "-r", "ams"]).await
    })
    .await?;
    ensure!(given == "192.0.2.70\n2001:db8:9::70\n", "{given}");
    ensure!(seen_as(node, &first, server).await? == OWN.to_string(), "it does not leave under its app's address");
    let second = user.platform.running_machine("site", "ams").await?.id;
    ensure!(seen_as(node, &second, server).await? == OWN.to_string(), "a new machine leaves under another address");

    let worker = node.kill(Role::Worker).await?;
    ensure!(seen_as(node, &first, server).await? == OWN.to_string(), "the address went with the worker");
    node.replaced(Role::Worker, worker).await?;
    until("the next worker answers", SOON, async || {
        user.platform.stop_machine("site", &second).await?;
        user.platform.start_machine("site", &second).await
    })
    .await?;
    for machine in [&first, &second] {
        ensure!(seen_as(node, machine, server).await? == OWN.to_string(), "the next worker does not know the address");
    }
    shown(user).await?;

    let again = user.fails(1, &["ips", "allocate-egress", "-a", "site", "-r", "ams", "--only", "v4"]).await?;
    ensure!(again.contains("has an address of every server in ams"), "{again}");
    let released = user.json(&["ips", "release-egress", "192.0.2.70", "-a", "site"]).await?;
    ensure!(released["released"][0] == "192.0.2.70", "{released}");
    ensure!(seen_as(node, &first, server).await? == own.to_string(), "it still leaves under the address");
    let resting = user.fails(1, &["ips", "allocate-egress", "-a", "site", "-r", "ams", "--only", "v4"]).await?;
    ensure!(resting.contains("in use, or rests"), "{resting}");
    Ok(())
}

/// In the list of addresses, and on record.
async fn shown(user: &User<'_>) -> anyhow::Result<()> {
    let listed = user.json(&["ips", "list", "-a", "site"]).await?;
    let listed: Vec<_> =
        listed["ips"].as_array().context("no list")?.iter().filter(|ip| ip["egress"] == true).collect();
    ensure!(listed.len() == 2 && listed[0]["ip"] == "192.0.2.70" && listed[0]["region"] == "ams", "{listed:?}");
    ensure!(listed[1]["ip"] == "2001:db8:9::70" && listed[1]["node"] == "ams", "{listed:?}");
    let table = user.ok(&["ips", "list", "-a", "site"]).await?;
    ensure!(table.contains("egress of ams"), "{table}");
    let record = user.ok(&["control", "audit", "-a", "site", "--limit", "100"]).await?;
    ensure!(record.contains("+ address: 192.0.2.70 2001:db8:9::70"), "{record}");
    ensure!(record.contains("+ kind: egress") && record.contains("+ region: ams"), "{record}");
    Ok(())
}
