//! What the shim is told, from what the driver was told. Pure.

use std::path::Path;

use atoll_guest_protocol::process::{Process, Terminal};
use atoll_guest_protocol::shim::{ExitRecord, File, Launch, Limits};
use atoll_model::guest::CpuKind;

use crate::{Exit, MachineSpec, ProcessSpec};

/// Size of a terminal that nobody has said the size of.
const DEFAULT_TERMINAL: (u16, u16) = (24, 80);

/// A path that is no text, which the shim's messages cannot carry.
#[derive(Debug, thiserror::Error)]
#[error("the path {0:?} is not UTF-8")]
pub struct NotText(String);

/// The launch of a machine.
pub fn launch(spec: &MachineSpec, guest: &Path) -> Result<Launch, NotText> {
    let mut files = vec![
        file("/etc/hostname", format!("{}\n", spec.hostname)),
        file("/etc/hosts", hosts(spec)),
        file("/etc/resolv.conf", spec.resolv_conf.clone()),
    ];
    files.extend(spec.files.iter().map(|file| File {
        path: file.path.clone(),
        content: file.content.clone(),
        mode: file.mode,
    }));
    Ok(Launch {
        boot_id: spec.boot_id.clone(),
        cgroup: spec.cgroup.clone(),
        network_namespace: text(&spec.network_namespace)?,
        hostname: spec.hostname.clone(),
        layers: spec.layers.iter().map(|layer| text(layer)).collect::<Result<_, _>>()?,
        files,
        main: process(&spec.process, None),
        limits: Limits {
            memory_bytes: u64::from(spec.guest.memory_mb) * 1024 * 1024,
            cpus: spec.guest.cpus,
            dedicated_cpus: spec.guest.cpu_kind == CpuKind::Performance,
            pids: spec.pids_limit,
        },
        guest: text(guest)?,
    })
}

/// A process, with a terminal if it asks for one.
pub fn process(spec: &ProcessSpec, terminal: Option<(u16, u16)>) -> Process {
    let (rows, columns) = terminal.unwrap_or(DEFAULT_TERMINAL);
    Process {
        args: spec.args.clone(),
        env: spec.env.clone(),
        working_dir: spec.working_dir.clone(),
        user: spec.user.clone(),
        terminal: spec.tty.then_some(Terminal { rows, columns }),
    }
}

/// The end of a machine as its shim recorded it.
pub fn exit(record: ExitRecord) -> Exit {
    let ExitRecord { boot_id: _, code, signal, oom_killed, at_ms, error } = record;
    Exit { code, signal, oom_killed, at_ms, error }
}

fn file(path: &str, content: String) -> File {
    File { path: path.to_owned(), content: content.into_bytes(), mode: 0o644 }
}

fn hosts(spec: &MachineSpec) -> String {
    spec.hosts.iter().map(|(address, names)| format!("{address}\t{}\n", names.join(" "))).collect()
}

fn text(path: &Path) -> Result<String, NotText> {
    path.to_str().map(str::to_owned).ok_or_else(|| NotText(path.to_string_lossy().into_owned()))
}
