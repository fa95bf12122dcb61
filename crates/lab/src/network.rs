//! A host's network from outside: its uplink into the relay, addresses, neighbours and the route to the
//! service address, set through `ip` in the host's network namespace.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::address::{Port, SERVICE_ADDRESS};
use crate::error::{Attempt, LabError};
use crate::sys;
use crate::world::{Role, Routing, World};

/// Of one batch; a guest carries it out only once it has booted.
const LIMIT: Duration = Duration::from_secs(180);

/// The uplink's name within every host.
pub const UPLINK: &str = "eth0";

/// The relay's end of a host's uplink. Another one each boot: the kernel takes the last one's away in
/// its own time.
pub fn relay_interface(port: Port, boot: u32) -> String {
    format!("port{}-{boot}", port.0)
}

/// Whose network is meant.
#[derive(Debug, Clone, Copy)]
pub enum Network<'a> {
    /// That of the lab itself.
    Own,
    /// That of a process.
    Process(Pid),
    /// That of the guest whose machine lives in a folder, told through its control port.
    Guest { program: &'a Path, folder: &'a Path },
}

/// Makes the relay's end of a guest's uplink; the guest's end is its network card.
pub async fn plug_in_guest(relay: Pid, near: &str) -> Result<(), LabError> {
    let make = format!("tuntap add dev {near} mode tap vnet_hdr\nlink set dev {near} up\n");
    ip(Network::Process(relay), &make).await
}

/// Connects a host's network namespace with the relay's.
pub async fn plug_in(relay: Pid, host: Pid, port: Port, near: &str) -> Result<(), LabError> {
    let (relay_pid, host_pid) = (relay.as_raw_nonzero(), host.as_raw_nonzero());
    let make = format!(
        "link add name {near} netns {relay_pid} type veth peer name {UPLINK} address {} netns {host_pid}\n",
        port.mac_text()
    );
    ip(Network::Own, &make).await?;
    ip(Network::Process(relay), &format!("link set dev {near} up\n")).await
}

/// Takes away the relay's end of a dead host's uplink, if the kernel has not done so yet.
pub async fn unplug(relay: Pid, near: &str) -> Result<(), LabError> {
    match ip(Network::Process(relay), &format!("link del dev {near}\n")).await {
        Err(LabError::Tool { told, .. }) if told.contains("Cannot find device") => Ok(()),
        other => other,
    }
}

/// Gives a host its addresses and tells it everybody's hardware address, so that no packet waits for
/// address resolution.
pub async fn configure(world: &World, host: Network<'_>, port: Port) -> Result<(), LabError> {
    let batch = match world.routing() {
        Some(routing) => routed_configuration(world, &routing, port),
        None => configuration(world, port),
    };
    ip(host, &batch).await
}

/// In a world of autonomous systems a host reaches its neighbours directly and everybody else through its
/// gateway; a router learns the rest by BGP. The addresses keep their wide prefixes, by which a BGP daemon
/// knows who is on the link, but the kernel makes no routes of them.
fn routed_configuration(world: &World, routing: &Routing, port: Port) -> String {
    let mut batch = loopback(world, port);
    let mut add = |line: std::fmt::Arguments<'_>| {
        batch.push_str(&line.to_string());
        batch.push('\n');
    };
    add(format_args!("link set dev {UPLINK} up"));
    add(format_args!("addr add {}/24 dev {UPLINK} noprefixroute", port.ipv4()));
    add(format_args!("addr add {}/64 dev {UPLINK} nodad noprefixroute", port.ipv6()));
    for peer in routing.neighbours(port) {
        let mac = peer.mac_text();
        add(format_args!("neigh replace {} lladdr {mac} dev {UPLINK} nud permanent", peer.ipv4()));
        add(format_args!("neigh replace {} lladdr {mac} dev {UPLINK} nud permanent", peer.ipv6()));
        add(format_args!("route add {}/32 dev {UPLINK}", peer.ipv4()));
        add(format_args!("route add {}/128 dev {UPLINK}", peer.ipv6()));
    }
    if let Some(gateway) = routing.gateway(port) {
        add(format_args!("route add 0.0.0.0/0 via {} dev {UPLINK}", gateway.ipv4()));
        add(format_args!("route add ::/0 via {} dev {UPLINK}", gateway.ipv6()));
    }
    batch
}

fn loopback(world: &World, port: Port) -> String {
    let mut batch = String::from("link set dev lo up\n");
    if world.hosts[port.0].role == Role::Node {
        batch.push_str(&format!("addr add {SERVICE_ADDRESS}/32 dev lo\n"));
    }
    batch
}

fn configuration(world: &World, port: Port) -> String {
    let mut batch = loopback(world, port);
    let mut add = |line: std::fmt::Arguments<'_>| {
        batch.push_str(&line.to_string());
        batch.push('\n');
    };
    add(format_args!("link set dev {UPLINK} up"));
    add(format_args!("addr add {}/24 dev {UPLINK}", port.ipv4()));
    add(format_args!("addr add {}/64 dev {UPLINK} nodad", port.ipv6()));
    for (peer, _) in world.ports().filter(|(peer, _)| *peer != port) {
        let mac = peer.mac_text();
        add(format_args!("neigh replace {} lladdr {mac} dev {UPLINK} nud permanent", peer.ipv4()));
        add(format_args!("neigh replace {} lladdr {mac} dev {UPLINK} nud permanent", peer.ipv6()));
    }
    batch
}

/// Sends what a client has for the service address to this edge, or nowhere.
pub async fn steer(client: Network<'_>, edge: Option<Ipv4Addr>) -> Result<(), LabError> {
    let route = match edge {
        Some(edge) => format!("route replace {SERVICE_ADDRESS}/32 via {edge} dev {UPLINK}\n"),
        None => format!("route flush {SERVICE_ADDRESS}/32\nroute replace unreachable {SERVICE_ADDRESS}/32\n"),
    };
    ip(client, &route).await
}

/// Runs a batch of `ip` commands.
async fn ip(network: Network<'_>, batch: &str) -> Result<(), LabError> {
    let mut command = match network {
        Network::Guest { program, folder } => {
            let mut command = Command::new(program);
            command.args(["internal", "session", "--input"]).arg(folder).args(["--", "ip"]);
            command
        }
        Network::Own | Network::Process(_) => Command::new("ip"),
    };
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    if let Network::Process(pid) = network {
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .attempting(|| format!("find process {}", pid.as_raw_nonzero()))?;
        // SAFETY: between fork and exec only this one system call is made, on a descriptor that the
        // closure owns; it neither allocates nor locks.
        unsafe {
            command.pre_exec(move || sys::setns(&process, libc::CLONE_NEWNET));
        }
    }
    let mut child = command.spawn().attempting(|| "start ip (package iproute2)".to_owned())?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(batch.as_bytes()).await.attempting(|| "write to ip".to_owned())?;
    }
    let output = tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .map_err(|_| LabError::Tool { command: "ip".to_owned(), told: format!("silent for {LIMIT:?}") })?
        .attempting(|| "wait for ip".to_owned())?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(LabError::Tool { command: format!("ip -batch, {}", batch.lines().next().unwrap_or_default()), told })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_routed_world_only_neighbours_are_reached_directly() {
        let world = World::parse(include_str!("../../../worlds/anycast.toml")).unwrap();
        let routing = world.routing().unwrap();
        let (client, router) = (world.port("berlin").unwrap(), world.port("eu").unwrap());
        let batch = routed_configuration(&world, &routing, client);
        assert!(batch.contains(&format!("route add {}/32 dev eth0", router.ipv4())));
        assert!(batch.contains(&format!("route add 0.0.0.0/0 via {} dev eth0", router.ipv4())));
        assert_eq!(batch.matches("/32 dev eth0").count(), 1);
        let batch = routed_configuration(&world, &routing, router);
        assert!(!batch.contains("0.0.0.0/0") && batch.matches("/32 dev eth0").count() == 6, "{batch}");
    }

    #[test]
    fn only_nodes_have_the_service_address_and_all_know_each_other() {
        let world = World::parse(
            "[[host]]\nname = \"n\"\ncity = \"ams\"\nrole = \"node\"\n\
             [[host]]\nname = \"c\"\ncity = \"nrt\"\nrole = \"client\"\n",
        )
        .unwrap();
        let (node, client) = (configuration(&world, Port(0)), configuration(&world, Port(1)));
        assert!(node.contains("198.51.100.1/32 dev lo") && !client.contains("198.51.100.1"));
        assert!(client.contains("neigh replace 10.77.0.1 lladdr 02:61:74:6c:00:01 dev eth0 nud permanent"));
        assert!(!client.contains("neigh replace 10.77.0.2 "));
    }
}
