//! The processes of a server: each reads what it is from the state folder, builds its parts, says
//! that it serves, and runs until it is asked to end.

mod catalogue;
mod control;
mod edge;
pub mod guard;
mod images;
mod metrics;
mod net;
mod place;
mod renewal;
mod replica;
mod sequence;
mod standing;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use atoll_rpc::tls::{IdentityMaterial, LiveIdentity};
use atoll_signals::LogFormat;

use crate::node::launch::RunFile;
use crate::node::setup::now_unix;
use crate::node::state::{NodeFile, StateDir};
use crate::node::supervisor::RoleLock;

/// What every process begins with.
pub struct Common {
    pub state: StateDir,
    pub node: NodeFile,
    pub run: RunFile,
    pub live: Arc<LiveIdentity>,
    _lock: RoleLock,
}

/// Runs the process of this role until it is asked to end.
pub fn run(role: &str, state: PathBuf) -> anyhow::Result<()> {
    let state = StateDir(state);
    let text = std::fs::read(state.options_file())
        .with_context(|| format!("cannot read {}: is this started by a supervisor?", state.options_file().display()))?;
    let run: RunFile = serde_json::from_slice(&text).context("the options of this process are damaged")?;
    let format = if run.server.log_json { LogFormat::Json } else { LogFormat::Text };
    atoll_signals::init(&run.server.log, format)?;
    let node = NodeFile::load(&state)?.context("this state folder belongs to no server")?;
    let lock = match RoleLock::take(&state, role)? {
        Ok(lock) => lock,
        Err(pid) => bail!("another {role} process ({pid}) runs on this state folder"),
    };
    let material = IdentityMaterial::load(&state.identity(role))?;
    // Whoever has a certificate heard control when it was given it: perhaps not since, if control is dead.
    // What control itself knows of its own absence is in a file.
    let heard = if role == "control" { control::authority::last_alive(&state) } else { material.not_before()? };
    let live = LiveIdentity::new(&material, heard.min(now_unix()))?;
    let common = Common { state, node, run, live, _lock: lock };
    match role {
        "control" => runtime(2)?.block_on(control::run(common)),
        "worker" => runtime(2)?.block_on(worker::run(common)),
        "edge" => runtime(1)?.block_on(edge::run(common)),
        "net" => net::run(common),
        other => bail!("there is no role {other:?}"),
    }
}

fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        // Disk work and image unpacking; each thread costs memory while it idles.
        .max_blocking_threads(16)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}

/// Resolves when the process is asked to end.
async fn asked_to_end() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
