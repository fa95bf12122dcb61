//! `atoll leave`: gives a host back that is a server no more.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use atoll_driver::ContainerDriver;
use atoll_net::Place;
use atoll_net::devices::rules;
use atoll_net::routes::Routes;
use atoll_worker::remove_traces;

use super::launch::{require_root, take_supervisor_lock};
use super::state::{NodeFile, StateDir};
use super::supervisor::RoleLock;

/// Give this host back: end its machines and remove what Atoll made in its kernel
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "For a server that is stopped and was drained, or given up as lost. Its state folder stays, but \
    no server starts from it any more; remove it when nothing in it is needed."
)]
pub struct LeaveCommand {
    /// The server's state folder
    #[arg(long, env = "ATOLL_STATE", default_value = "/var/lib/atoll")]
    pub state: PathBuf,

    /// Also when control runs here: the platform ends with it, unless its records are restored elsewhere
    #[arg(long)]
    pub with_control: bool,
}

pub async fn leave(command: LeaveCommand) -> anyhow::Result<()> {
    require_root()?;
    let state = StateDir(command.state);
    let node = NodeFile::load(&state)?
        .with_context(|| format!("{} belongs to no server, or to one that has left", state.0.display()))?;
    if node.runs_control && !command.with_control {
        bail!("{} runs control; if the platform is to end with it, say --with-control", node.name);
    }
    let _supervisor = take_supervisor_lock(&state)?;
    let mut locks = Vec::new();
    for role in ["control", "worker", "edge", "net"] {
        match RoleLock::take(&state, role)? {
            Ok(lock) => locks.push(lock),
            Err(pid) => bail!("process {pid} ({role}) of this server still runs: stop the server first"),
        }
    }
    let own = state.role("worker");
    let instance = node.instance_number()?;
    let driver = ContainerDriver::new(&own.join("bin")).context("cannot prepare the container driver")?;
    let machines = remove_traces(&own, instance, &driver).await?;
    let key = atoll_net::key::load_or_create(&state.mesh_key())?;
    let place = Place::new(instance, key.public(), 0, 0);
    Routes::open(&place)?.remove().await?;
    rules::apply(rules::removal(&place)).await?;
    // Last: until then the same command finishes what a kill interrupted.
    let left = state.node_file().with_extension("json.left");
    std::fs::rename(state.node_file(), &left)
        .with_context(|| format!("cannot rename {}", state.node_file().display()))?;
    println!("{} has left: {machines} machines ended; {} can be removed", node.name, state.0.display());
    Ok(())
}
