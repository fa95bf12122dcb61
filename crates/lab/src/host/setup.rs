//! Furnishes a host from within: control group, namespaces, mounts, name and network settings. Runs as
//! the host's first process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Group, Hierarchy};
use crate::sys;

/// All that a host's first process needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Furniture {
    pub name: String,
    /// The host's group below every cgroup hierarchy.
    pub group: PathBuf,
    /// The file that becomes `/etc/hosts`.
    pub hosts_file: PathBuf,
}

/// What could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("{attempted}")]
pub struct FurnishError {
    attempted: String,
    #[source]
    source: io::Error,
}

trait Attempt<T> {
    fn attempting(self, what: impl FnOnce() -> String) -> Result<T, FurnishError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempting(self, what: impl FnOnce() -> String) -> Result<T, FurnishError> {
        self.map_err(|error| FurnishError { attempted: what(), source: error.into() })
    }
}

/// Network settings of every host. Big windows, because a long fat pipe is what the lab is for.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    // All hosts share one link: a router must not tell neighbours to send past it.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv4/tcp_rmem", "4096 131072 33554432"),
    ("net/ipv4/tcp_wmem", "4096 65536 33554432"),
];

pub(super) fn furnish(furniture: &Furniture) -> Result<(), FurnishError> {
    let group = Group::named(&furniture.group).attempting(|| "read the cgroup mounts".to_owned())?;
    group.enter().attempting(|| format!("enter the control group {}", furniture.group.display()))?;
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    sys::unshare(namespaces).attempting(|| "make namespaces".to_owned())?;
    group.enter_leaf().attempting(|| "enter the leaf control group".to_owned())?;

    // Nothing mounted here shows outside, nor the other way.
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .attempting(|| "make the mounts private".to_owned())?;
    for outer in ["/proc", "/sys", "/run"] {
        take_away(outer)?;
    }
    mount("proc", "/proc", "proc", "")?;
    mount("sysfs", "/sys", "sysfs", "")?;
    mount_cgroups(group.hierarchies())?;
    mount("tmpfs", "/run", "tmpfs", "mode=755")?;
    rustix::mount::mount_bind(&furniture.hosts_file, "/etc/hosts")
        .attempting(|| format!("mount {} at /etc/hosts", furniture.hosts_file.display()))?;
    show_own_boot()?;
    rustix::system::sethostname(furniture.name.as_bytes()).attempting(|| "set the host's name".to_owned())?;
    for (key, value) in SYSCTLS {
        fs::write(Path::new("/proc/sys").join(key), value).attempting(|| format!("set sysctl {key}"))?;
    }
    Ok(())
}

/// Removes what is mounted at a path and below, so that a host's programs do not find it in their lists.
fn take_away(target: &str) -> Result<(), FurnishError> {
    match rustix::mount::unmount(target, UnmountFlags::DETACH) {
        // Nothing is mounted there.
        Err(rustix::io::Errno::INVAL) => Ok(()),
        other => other.attempting(|| format!("unmount {target}")),
    }
}

/// Gives each boot of a host an id of its own, as a machine's kernel does: this machine's outlives the
/// host's power cuts, and programs that look would not know that they were rebooted.
fn show_own_boot() -> Result<(), FurnishError> {
    const KERNELS: &str = "/proc/sys/kernel/random/boot_id";
    let own = Path::new("/run/boot_id");
    fs::read("/proc/sys/kernel/random/uuid")
        .and_then(|id| fs::write(own, id))
        .attempting(|| format!("write {}", own.display()))?;
    rustix::mount::mount_bind(own, KERNELS).attempting(|| format!("mount {} at {KERNELS}", own.display()))?;
    // The mount keeps the file; the host's programs start with an empty /run.
    fs::remove_file(own).attempting(|| format!("remove {}", own.display()))
}

/// Within the cgroup namespace the host's own group is the root of each hierarchy.
fn mount_cgroups(hierarchies: &[Hierarchy]) -> Result<(), FurnishError> {
    let parent = Path::new("/sys/fs/cgroup");
    if hierarchies.iter().all(|hierarchy| hierarchy.mount != parent) {
        mount("tmpfs", parent, "tmpfs", "mode=755")?;
    }
    for hierarchy in hierarchies {
        if hierarchy.mount != parent {
            fs::create_dir_all(&hierarchy.mount).attempting(|| format!("make {}", hierarchy.mount.display()))?;
        }
        match &hierarchy.options {
            Some(options) => mount("cgroup", &hierarchy.mount, "cgroup", options)?,
            None => mount("cgroup2", &hierarchy.mount, "cgroup2", "")?,
        }
    }
    Ok(())
}

fn mount(source: &str, target: impl AsRef<Path>, filesystem: &str, options: &str) -> Result<(), FurnishError> {
    let target = target.as_ref();
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Programs may live below /run; the others hold none.
    let flags = if filesystem == "tmpfs" { MountFlags::NOSUID } else { flags };
    let options = std::ffi::CString::new(options).unwrap_or_default();
    rustix::mount::mount(source, target, filesystem, flags, options.as_c_str())
        .attempting(|| format!("mount {filesystem} at {}", target.display()))
}
