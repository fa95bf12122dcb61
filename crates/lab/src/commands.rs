//! What each command does.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use atoll_lab::host::enter::Class;
use atoll_lab::verb::{HostState, Status, Verb};
use atoll_lab::world::Kind;
use atoll_lab::{Lab, LabError, Options, World, control, premises, trace};
use rustix::process::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::internal;

/// Runs a world until interrupted. Prints `ready <folder>` once it runs, and writes the file `ready` in
/// the folder.
pub fn run(world: &Path, folder: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    let text = fs::read_to_string(world).with_context(|| format!("read {}", world.display()))?;
    let world = World::parse(&text).map_err(|source| LabError::World { file: world.display().to_string(), source })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        let options = Options { folder, program: Some(std::env::current_exe()?), ..Options::default() };
        let lab = Lab::start(&world, &options).await?;
        let status = lab.status();
        println!("relay runs at {}", status.relay.priority);
        if world.systems.is_empty() {
            println!("clients reach the service address by lab steering, not BGP");
        } else {
            println!("clients reach the service address by BGP");
        }
        for host in status.hosts.iter().filter(|host| host.steered_to.is_some()) {
            println!("{} -> {}", host.name, host.steered_to.as_deref().unwrap_or_default());
        }
        let serving = tokio::spawn(control::serve(lab.clone()));
        let ready = lab.folder().join("ready");
        fs::write(&ready, &status.id).with_context(|| format!("write {}", ready.display()))?;
        println!("ready {}", lab.folder().display());
        let ended = tokio::select! {
            _ = terminated.recv() => Ok(()),
            result = tokio::signal::ctrl_c() => result.context("wait for an interruption"),
        };
        serving.abort();
        // Not to be mistaken for a running lab, where the folder stays.
        fs::remove_file(&ready).with_context(|| format!("remove {}", ready.display()))?;
        drop(lab);
        ended.map(|()| ExitCode::SUCCESS)
    })
}

/// Runs a program in a host.
pub fn exec(folder: Option<PathBuf>, host: &str, program: &[OsString]) -> anyhow::Result<ExitCode> {
    let status = control::ask(&find(folder)?, &Verb::Status)?;
    let host = status.host(host).ok_or_else(|| LabError::UnknownHost(host.to_owned()))?;
    let (HostState::Up, Some(first)) = (host.state, host.pid.and_then(Pid::from_raw)) else {
        bail!("host {} is {}", host.name, host.state.as_str());
    };
    if host.kind == Kind::Vm {
        let program = program.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        return internal::session(&host.disk.with_file_name("vm"), program, Vec::new());
    }
    internal::enter(first, host.group.clone(), Class::Ordinary, program)
}

pub fn status(folder: Option<PathBuf>, json: bool) -> anyhow::Result<ExitCode> {
    let status = control::ask(&find(folder)?, &Verb::Status)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(status: &Status) {
    println!("{:<16} {:<8} {:<8} {:<12} service address", "host", "role", "state", "address");
    for host in &status.hosts {
        let role = format!("{:?}", host.role).to_lowercase();
        let service = match (&host.steered_to, host.withdrawn) {
            (Some(edge), _) => format!("to {edge} (lab steering, not BGP)"),
            (None, true) => "withdrawn".to_owned(),
            (None, false) => String::new(),
        };
        let (state, address) = (host.state.as_str(), host.ipv4.to_string());
        println!("{:<16} {role:<8} {state:<8} {address:<12} {service}", host.name);
    }
}

/// Prints the hosts through which what a host sends to an address goes.
pub fn trace(folder: Option<PathBuf>, host: &str, address: std::net::Ipv4Addr) -> anyhow::Result<ExitCode> {
    let status = control::ask(&find(folder)?, &Verb::Status)?;
    let program = std::env::current_exe()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = runtime.block_on(trace::trace(&program, &status, host, address))?;
    println!("{}", path.join(" -> "));
    Ok(ExitCode::SUCCESS)
}

pub fn clean() -> anyhow::Result<ExitCode> {
    for id in premises::clean()? {
        println!("cleaned up after lab {id}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the running lab to do something.
pub fn apply(folder: Option<PathBuf>, verb: &Verb) -> anyhow::Result<ExitCode> {
    control::ask(&find(folder)?, verb)?;
    Ok(ExitCode::SUCCESS)
}

/// The folder of the lab meant.
fn find(folder: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = folder {
        return Ok(folder);
    }
    match &premises::living()?[..] {
        [only] => Ok(only.folder.clone()),
        [] => bail!("no lab runs: start one with `atoll-lab run <world>`"),
        several => {
            let folders: Vec<_> = several.iter().map(|lab| lab.folder.display().to_string()).collect();
            bail!("several labs run; say which with --dir: {}", folders.join(", "))
        }
    }
}
