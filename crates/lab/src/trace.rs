//! Follows routes through a running world, host by host, as the kernels there have them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use crate::address::Port;
use crate::error::{Attempt, LabError};
use crate::verb::{HostState, HostStatus, Status};
use crate::world::Kind;

/// Of one look at a host's routes.
const LIMIT: Duration = Duration::from_secs(10);

/// Longer ways are loops.
const LONGEST: usize = 32;

#[derive(Deserialize)]
struct Route {
    #[serde(rename = "type")]
    kind: Option<String>,
    gateway: Option<Ipv4Addr>,
    dev: Option<String>,
}

/// The hosts through which a packet from one host to an address goes, both ends included.
///
/// # Errors
/// If a host on the way has no route, is down, or the way is a loop.
pub async fn trace(program: &Path, status: &Status, from: &str, to: Ipv4Addr) -> Result<Vec<String>, LabError> {
    let mut at = status.host(from).ok_or_else(|| LabError::UnknownHost(from.to_owned()))?;
    let mut path = vec![at.name.clone()];
    loop {
        let Some(next) = next_hop(program, at, to).await? else { return Ok(path) };
        let port = Port::of(next).and_then(|port| status.hosts.get(port.0));
        at = port.ok_or_else(|| LabError::Invalid(format!("{} sends to {next}, which is no host", at.name)))?;
        path.push(at.name.clone());
        if path.len() > LONGEST {
            return Err(LabError::Invalid(format!("a loop: {}", path.join(" -> "))));
        }
    }
}

/// Where a host sends what is for an address; none if it is its own.
async fn next_hop(program: &Path, host: &HostStatus, to: Ipv4Addr) -> Result<Option<Ipv4Addr>, LabError> {
    let name = &host.name;
    let (HostState::Up, Some(pid), Kind::Namespace) = (host.state, host.pid, host.kind) else {
        return Err(LabError::Invalid(format!("the routes of {name} cannot be seen: it is down or a virtual machine")));
    };
    let mut command = Command::new(program);
    command.args(["internal", "enter", &pid.to_string()]).arg(&host.group);
    command.args(["--", "ip", "-json", "route", "get", &to.to_string()]).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output())
        .await
        .map_err(|_| LabError::Tool { command: "ip route get".to_owned(), told: format!("silent for {LIMIT:?}") })?
        .attempting(|| "start ip (package iproute2)".to_owned())?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LabError::Tool { command: format!("ip route get {to} in {name}"), told });
    }
    let routes: Vec<Route> = serde_json::from_slice(&output.stdout)
        .map_err(std::io::Error::from)
        .attempting(|| format!("read the route of {name}"))?;
    let route = routes.first().ok_or_else(|| LabError::Invalid(format!("{name} has no route to {to}")))?;
    let own = route.kind.as_deref() == Some("local") || route.dev.as_deref() == Some("lo");
    Ok(if own { None } else { Some(route.gateway.unwrap_or(to)) })
}
