//! The peer of the start bench: `runc run`, with what a machine gets where runc can give it: namespaces
//! of its own (a new, empty network among them), limits, capabilities, a filter of system calls that
//! allows the same calls, masked paths, no new privileges.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use atoll_signals::moment_us;

use crate::scene;

/// The calls that machines may make, in runc's words.
const SECCOMP: &str = include_str!("runc_seccomp.json");

/// A bundle, and where runc keeps its own records.
pub struct Runc {
    folder: TempDir,
}

impl Runc {
    /// `root` holds the program `first`.
    pub fn new(root: &Path) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let root = root.canonicalize().context("the workload's root is not built")?;
        let config = serde_json::to_vec(&config(&root)?)?;
        std::fs::write(folder.path().join("config.json"), config)?;
        Ok(Self { folder })
    }

    /// Runs the program to its end; microseconds from before runc's own start to its first instruction.
    pub async fn first_instruction_us(&self, round: usize) -> anyhow::Result<u64> {
        let id = format!("atoll-bench-{}-{round}", std::process::id());
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.folder.path().join("records"));
        command.args(["run", "--bundle"]).arg(self.folder.path()).arg(id).stdin(Stdio::null()).kill_on_drop(true);
        let began = moment_us();
        let output = command.output().await.context("cannot run runc")?;
        ensure!(output.status.success(), "runc: {}", String::from_utf8_lossy(&output.stderr).trim());
        let first = String::from_utf8_lossy(&output.stdout).lines().find_map(scene::first_of);
        Ok(first.context("the workload said nothing")?.saturating_sub(began))
    }
}

fn config(root: &Path) -> anyhow::Result<Value> {
    const CAPABILITIES: [&str; 13] = [
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ];
    let mount = |kind: &str, at: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let guarded = ["nosuid", "noexec", "nodev"];
    let seccomp: Value = serde_json::from_str(SECCOMP).context("the peer's filter cannot be read")?;
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/first", "once"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
            "noNewPrivileges": true,
        },
        "root": {"path": root, "readonly": false},
        "hostname": "bench",
        "mounts": [
            mount("proc", "/proc", &guarded),
            mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("mqueue", "/dev/mqueue", &guarded),
            mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": "/atoll-bench",
            "resources": {
                "memory": {"limit": 256 << 20},
                "cpu": {"shares": 64},
                "pids": {"limit": 4096},
            },
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"},
            ],
            "seccomp": seccomp,
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }))
}
