//! A user's device enters its organization's private network with a stock WireGuard client, and nothing else
//! behind the gateway.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::Method;
use serde_json::json;
use tokio::process::Command;

use atoll_lab::Host;
use atoll_model::address::FLYCAST_PORT;
use atoll_model::wire::WireGuardPeerStatus;
use atoll_trial::platform::{Platform, Role, RunningMachine, SOON, TWO_REGIONS};
use atoll_trial::programs;
use atoll_trial::visit::Who;
use atoll_trial::wait::until;

use crate::support::trial;

/// By when nothing of a removed device may be accepted.
const SHUT_OUT: Duration = Duration::from_secs(5);
/// By when a killed gateway lets its devices through again: its restart, and keys agreed on anew.
const BACK: Duration = Duration::from_secs(5);
/// wg-quick tells it the resolver, as on systems that have one; here it only notes what it was told.
const RESOLVCONF: &str = "#!/bin/sh\ncat > \"${0%/*}/resolv.conf\"\n";

/// A user's computer with a stock client.
struct Device {
    host: Host,
    folder: PathBuf,
    api: String,
    token: String,
}

impl Device {
    fn new(platform: &Platform, host: &str) -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let host = platform.host(host)?;
        let folder = host.disk()?;
        let resolvconf = folder.join("resolvconf");
        std::fs::write(&resolvconf, RESOLVCONF)?;
        std::fs::set_permissions(&resolvconf, std::fs::Permissions::from_mode(0o755))?;
        let api = format!("http://{}", platform.node("ams")?.address(4280)?);
        Ok(Self { host, folder, api, token: platform.token().to_owned() })
    }

    fn command(&self, program: &str) -> anyhow::Result<Command> {
        let mut command = self.host.command(program)?;
        let path = format!("{}:{}", self.folder.display(), std::env::var("PATH")?);
        command.current_dir(&self.folder).env("PATH", path).env("HOME", &self.folder);
        command.env("ATOLL_API", &self.api).env("ATOLL_TOKEN", &self.token);
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(program)?.args(arguments).output().await?)
    }

    async fn said(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(program, arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {arguments:?}: {} {said}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn atoll(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.said(programs::atoll()?.to_str().context("an odd path")?, arguments).await
    }

    /// Asks the app of a machine who it is.
    async fn ask(&self, address: IpAddr) -> anyhow::Result<Who> {
        let url = format!("http://{}/", SocketAddr::new(address, 8080));
        let said = self.said("curl", &["-sf", "-g", "--connect-timeout", "1", "--max-time", "2", &url]).await?;
        Ok(serde_json::from_str(&said)?)
    }

    async fn asks(&self, machine: &RunningMachine, limit: Duration) -> anyhow::Result<Duration> {
        let (_, took) = until("the machine answers the device", limit, async || {
            let who = self.ask(machine.address.into()).await?;
            ensure!(who.machine == machine.id, "{} answered", who.machine);
            Ok(())
        })
        .await?;
        Ok(took)
    }

    async fn resolve(&self, server: &str, kind: &str, name: &str) -> anyhow::Result<String> {
        let said = self.said("dig", &["+short", "+timeout=1", "+tries=3", server, kind, name]).await?;
        Ok(said.trim().to_owned())
    }

    async fn status(&self) -> anyhow::Result<WireGuardPeerStatus> {
        Ok(serde_json::from_str(&self.atoll(&["--json", "wireguard", "status", "laptop"]).await?)?)
    }
}

/// A server's own address in the mesh.
async fn node_address(platform: &Platform, node: &str) -> anyhow::Result<Ipv6Addr> {
    let output = platform.node(node)?.run("ip", &["-6", "-o", "addr", "show", "dev", "lo"]).await?;
    let text = String::from_utf8(output.stdout)?;
    let mut words = text.split([' ', '/']);
    words
        .find_map(|word| word.parse().ok().filter(|address: &Ipv6Addr| address.segments()[0] == 0xfdaa))
        .context("none")
}

#[test]
fn a_stock_client_enters_its_own_network_alone_until_it_is_removed() {
    trial("wireguard", TWO_REGIONS, async |platform| {
        platform.create_app("web").await?;
        let foreign = json!({"name": "foreign", "org_slug": "personal", "network": "strangers"});
        platform.client().raw(Method::POST, "/v1/apps", Some(&foreign)).await?;
        platform.import_example("hello", "foreign/web:latest").await?;
        let (near, far) =
            (platform.running_machine("web", "nrt").await?, platform.running_machine("web", "ams").await?);
        let strangers =
            [platform.running_machine("foreign", "nrt").await?, platform.running_machine("foreign", "ams").await?];

        let device = Device::new(platform, "osaka")?;
        device.atoll(&["wireguard", "create", "laptop", "--file", "laptop.conf"]).await?;
        let status = device.status_when_let_in().await?;
        ensure!(status.entrance.gateway.node.to_string() == "nrt", "the nearest is nrt: {status:?}");
        device.said("wg-quick", &["up", "./laptop.conf"]).await?;
        for machine in [&near, &far] {
            device.asks(machine, SOON).await?;
        }

        // Names, from the resolver that the configuration names.
        let resolver = std::fs::read_to_string(device.folder.join("resolv.conf"))?;
        let resolver = resolver.strip_prefix("nameserver ").context("no resolver was told")?.trim();
        let server = format!("@{resolver}");
        ensure!(resolver == status.entrance.dns.to_string(), "{resolver}");
        ensure!(device.resolve(&server, "AAAA", "ams.web.internal").await? == far.address.to_string(), "the far one");
        ensure!(device.resolve(&server, "TXT", "_peer.internal").await? == "\"laptop\"", "the network's devices");
        let own = status.entrance.peer.address.to_string();
        ensure!(device.resolve(&server, "AAAA", "laptop._peer.internal").await? == own, "its own name");
        ensure!(device.resolve(&server, "AAAA", "foreign.internal").await?.is_empty(), "a stranger's name");
        ensure!(device.resolve(&server, "TXT", "_apps.internal").await? == "\"web\"", "the network's apps");

        // Machines of its network reach it, others do not.
        for (from, node, reaches) in [(&near, "nrt", true), (&far, "ams", true), (&strangers[0], "nrt", false)] {
            let output = platform.node(node)?.in_machine(&from.id, "ping", &["-c1", "-W2", &own]).await?;
            ensure!(output.status.success() == reaches, "a machine on {node}: {}", output.status);
        }

        // An app's private address, where the gateway's edge takes its calls.
        let given = platform.client().address_assign("web", &json!({"type": "private_v6"})).await?;
        let entered = given["ip"].as_str().context("no address was given")?;
        until("the app's private name is known", SOON, async || {
            let found = device.resolve(&server, "AAAA", "web.flycast").await?;
            ensure!(found == entered, "it leads to {found:?}");
            Ok(())
        })
        .await?;
        let said = device.said("curl", &["-sfg", "--max-time", "20", &format!("http://[{entered}]/")]).await?;
        ensure!(said.contains(&near.id), "the gateway's own machine is the nearest: {said}");

        // A device that does not keep to its configuration reaches no more than one that does.
        let key = &status.entrance.gateway.public_key;
        device.said("wg", &["set", "laptop", "peer", key, "allowed-ips", "::/0"]).await?;
        device.said("ip", &["-6", "route", "add", "fdaa::/16", "dev", "laptop"]).await?;
        let mut hosts = Vec::new();
        for node in ["ams", "nrt"] {
            hosts.push(node_address(platform, node).await?);
            let public = platform.host(node)?.ipv6()?;
            device.said("ip", &["-6", "route", "replace", &format!("{public}/128"), "dev", "laptop"]).await?;
            hosts.push(public);
        }
        for machine in &strangers {
            ensure!(device.ask(machine.address.into()).await.is_err(), "a stranger answered");
        }
        device.said("dig", &["+short", "+tcp", &server, "AAAA", "web.internal"]).await?;
        for host in hosts.iter().chain([&status.entrance.dns]) {
            let is_question = |port: &u16| *host == status.entrance.dns && *port == 53;
            for port in [22, 53, 443, 4281, 4283, FLYCAST_PORT].into_iter().filter(|port| !is_question(port)) {
                let url = format!("telnet://{}", SocketAddr::new((*host).into(), port));
                let limits = ["-s", "-g", "--connect-timeout", "0.5", "--max-time", "0.6"];
                let output = device.run("curl", &[&limits[..], &["-w", "%{time_connect}", &url]].concat()).await?;
                let took = String::from_utf8_lossy(&output.stdout);
                ensure!(took.starts_with("0.000000"), "{url} was connected to: {took:?}");
            }
            let answered = device.run("ping", &["-c1", "-W1", &host.to_string()]).await?.status.success();
            ensure!(!answered, "{host} answered");
        }
        device.asks(&far, SOON).await?;

        let link = device.status().await?.link.context("the gateway says nothing")?;
        ensure!(link.last_handshake.is_some() && link.rx_bytes > 0 && link.tx_bytes > 0, "{link:?}");
        ensure!(link.endpoint.map(|at| at.ip()) == Some(device.host.ipv4()?.into()), "{link:?}");

        // The gateway's process is replaced.
        let nrt = platform.node("nrt")?;
        let net = nrt.kill(Role::Net).await?;
        nrt.replaced(Role::Net, net).await?;
        let back = device.asks(&far, SOON).await?;
        println!("a device passed {back:.1?} after the gateway's process was there again");
        ensure!(back <= BACK, "only after {back:.1?}");

        device.atoll(&["wireguard", "remove", "laptop"]).await?;
        let (_, took) = until("nothing of a removed device is accepted", SOON, async || {
            match device.ask(near.address.into()).await {
                Ok(who) => bail!("{} answered it", who.machine),
                Err(_) => Ok(()),
            }
        })
        .await?;
        println!("a removed device was shut out after {took:.1?}");
        ensure!(took <= SHUT_OUT, "only after {took:.1?}");
        let atoll = programs::atoll()?;
        let gone = device.run(atoll.to_str().context("an odd path")?, &["wireguard", "status", "laptop"]);
        ensure!(gone.await?.status.code() == Some(4), "it is still known");
        device.said("wg-quick", &["down", "./laptop.conf"]).await.map(drop)
    });
}

#[test]
fn a_network_without_udp_lets_a_device_through_over_https() {
    trial("wireguard_websocket", TWO_REGIONS, async |platform| {
        platform.create_app("web").await?;
        let far = platform.running_machine("web", "ams").await?;
        let device = Device::new(platform, "osaka")?;
        device.said("nft", &["add table inet no_udp"]).await?;
        let hook = "{ type filter hook output priority 0; }";
        device.said("nft", &[&format!("add chain inet no_udp out {hook}")]).await?;
        device.said("nft", &["add rule inet no_udp out oifname != { lo, laptop } meta l4proto udp drop"]).await?;
        device.atoll(&["wireguard", "create", "laptop", "--websocket", "--file", "laptop.conf"]).await?;
        let status = device.status_when_let_in().await?;
        let mut tunnel = device.command(programs::atoll()?.to_str().context("an odd path")?)?;
        let mut tunnel = tunnel.args(["wireguard", "tunnel", "laptop"]).spawn()?;
        device.said("wg-quick", &["up", "./laptop.conf"]).await?;
        let took = device.asks(&far, SOON).await?;
        println!("a device entered over HTTPS after {took:.1?}");
        let server = format!("@{}", status.entrance.dns);
        ensure!(device.resolve(&server, "AAAA", "web.internal").await? == far.address.to_string(), "no name");
        let link = device.status().await?.link.context("the gateway says nothing")?;
        ensure!(link.endpoint.is_some_and(|at| at.ip().is_loopback()), "{link:?}");

        // The edge that carries the connection is replaced.
        let nrt = platform.node("nrt")?;
        let edge = nrt.kill(Role::Edge).await?;
        nrt.replaced(Role::Edge, edge).await?;
        let back = device.asks(&far, SOON).await?;
        println!("a device passed {back:.1?} after its gateway's edge was there again");
        device.said("wg-quick", &["down", "./laptop.conf"]).await?;
        tunnel.kill().await?;
        Ok(())
    });
}

impl Device {
    async fn status_when_let_in(&self) -> anyhow::Result<WireGuardPeerStatus> {
        let (status, _) = until("the gateway lets the device in", SOON, async || {
            let status = self.status().await?;
            ensure!(status.link.is_some(), "not yet");
            Ok(status)
        })
        .await?;
        Ok(status)
    }
}
