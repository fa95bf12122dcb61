//! A machine's control group: limits, freezing, what it uses, and its end. Speaks cgroup v1 (one
//! tree for each controller) and v2 (one unified tree), whichever the host uses. Paths come from the
//! caller; nothing outside the machine's own group is changed, except that parents are made and, on
//! v2, told to hand controllers down.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_guest_protocol::shim::{Limits, Stats};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::hierarchies::{Hierarchies, Mounts, V1_CONTROLLERS, V2_CONTROLLERS};
use crate::wait;

/// Length of the period that a CPU quota counts in, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Longest wait for a group to freeze, or to be empty after it was killed.
const SETTLE: Duration = Duration::from_secs(5);

/// What could not be done with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("this host has mounted no cgroup controller \"{controller}\"")]
    MissingController { controller: &'static str },
    #[error("the cgroup path {path:?} leads out of its tree")]
    BadPath { path: String },
    #[error("cannot {action} {path:?}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Error,
    },
    #[error("the processes of {path:?} do not {what} within {} s", SETTLE.as_secs())]
    Stuck { path: PathBuf, what: &'static str },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A machine's group, which may or may not exist.
#[derive(Debug)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: String,
}

impl Cgroup {
    /// The group at `path` below each controller or the unified root.
    pub fn new(path: &str) -> Result<Self, CgroupError> {
        let path = path.trim_matches('/');
        let plain = !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !plain {
            return Err(CgroupError::BadPath { path: path.to_owned() });
        }
        let mounts = Mounts::parse(&read(Path::new("/proc/self/mountinfo"))?);
        let offered = match &mounts.unified {
            Some(root) => read(&root.join("cgroup.controllers"))?,
            None => String::new(),
        };
        Ok(Self { hierarchies: mounts.choose(&offered), path: path.to_owned() })
    }

    /// Makes the group with its limits.
    pub fn create(&self, limits: &Limits) -> Result<(), CgroupError> {
        match &self.hierarchies {
            Hierarchies::V1(_) => V1_CONTROLLERS.into_iter().try_for_each(|name| make(&self.folder(name)?))?,
            Hierarchies::V2(root) => self.create_unified(root)?,
        }
        for (controller, file, value) in limit_files(self.version(), limits) {
            write(&self.folder(controller)?.join(file), &value)?;
        }
        let (swap, value) = swap_file(self.version(), limits);
        match write(&self.folder("memory")?.join(swap), &value) {
            // Without swap accounting the kernel has no such file, and nothing to limit.
            Err(CgroupError::Io { source, .. }) if is_absent(&source) => Ok(()),
            other => other,
        }
    }

    fn create_unified(&self, root: &Path) -> Result<(), CgroupError> {
        let mut folder = root.to_owned();
        for part in self.path.split('/') {
            let control = folder.join("cgroup.subtree_control");
            let handed_down = read(&control)?;
            let missing = V2_CONTROLLERS.iter().filter(|name| handed_down.split_whitespace().all(|has| has != **name));
            let missing: Vec<String> = missing.map(|name| format!("+{name}")).collect();
            if !missing.is_empty() {
                write(&control, &missing.join(" "))?;
            }
            folder.push(part);
            make(&folder)?;
        }
        Ok(())
    }

    /// Puts the calling process, which must have one thread, into the group.
    pub fn join(&self) -> Result<(), CgroupError> {
        // A thread that moves itself needs no lock of the whole host, which costs about 8 ms to take.
        // On v2 a process is cloned into its group instead, for the same reason.
        let file = match self.version() {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        };
        self.folders().iter().try_for_each(|folder| write(&folder.join(file), "0"))
    }

    /// The unified group's folder, into which a process can be cloned; none on v1.
    pub fn clone_target(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Hierarchies::V2(root) = &self.hierarchies else { return Ok(None) };
        let path = root.join(&self.path);
        let folder = fs::File::open(&path).map_err(|source| CgroupError::Io { action: "open", path, source })?;
        Ok(Some(folder.into()))
    }

    /// Stops every process where it is, and returns when they stand still.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let folder = self.folder("freezer")?;
        let (asked, value, observed, settled) = match self.version() {
            Version::V1 => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            Version::V2 => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
        };
        write(&folder.join(asked), value)?;
        let observed = folder.join(observed);
        let frozen =
            wait::until(SETTLE, || read(&observed).is_ok_and(|text| text.lines().any(|line| line.trim() == settled)));
        if frozen { Ok(()) } else { Err(CgroupError::Stuck { path: folder, what: "freeze" }) }
    }

    pub fn thaw(&self) -> Result<(), CgroupError> {
        let (file, value) = match self.version() {
            Version::V1 => ("freezer.state", "THAWED"),
            Version::V2 => ("cgroup.freeze", "0"),
        };
        write(&self.folder("freezer")?.join(file), value)
    }

    /// Whether the kernel killed a process of this group for memory.
    pub fn oom_killed(&self) -> Result<bool, CgroupError> {
        let file = match self.version() {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        Ok(field(&read(&self.folder("memory")?.join(file))?, "oom_kill").is_some_and(|count| count > 0))
    }

    pub fn stats(&self) -> Result<Stats, CgroupError> {
        let text = |controller, file| read(&self.folder(controller)?.join(file));
        let number = |controller, file| Ok(text(controller, file)?.trim().parse::<u64>().unwrap_or(0));
        let (memory, cache, cpu_nanoseconds) = match self.version() {
            Version::V1 => (
                number("memory", "memory.usage_in_bytes")?,
                field(&text("memory", "memory.stat")?, "total_inactive_file"),
                number("cpuacct", "cpuacct.usage")?,
            ),
            Version::V2 => (
                number("memory", "memory.current")?,
                field(&text("memory", "memory.stat")?, "inactive_file"),
                field(&text("cpu", "cpu.stat")?, "usage_usec").unwrap_or(0).saturating_mul(1000),
            ),
        };
        let processes = number("pids", "pids.current")?;
        Ok(Stats {
            // Page cache that can be dropped at once is not what the machine needs.
            memory_bytes: memory.saturating_sub(cache.unwrap_or(0)),
            cpu_nanoseconds,
            processes: u32::try_from(processes).unwrap_or(u32::MAX),
        })
    }

    /// Kills every process of the group, frozen or not, and removes it. A group that is not there
    /// is removed.
    pub fn destroy(&self) -> Result<(), CgroupError> {
        for folder in self.folders() {
            if folder.is_dir() {
                self.empty(&folder)?;
            }
        }
        self.remove()
    }

    /// Removes the group, whose last processes are about to be gone.
    pub fn remove(&self) -> Result<(), CgroupError> {
        for folder in self.folders() {
            let mut outcome = Ok(());
            let settled = wait::until(SETTLE, || {
                outcome = fs::remove_dir(&folder);
                // A process that just ended still counts for a moment.
                !outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
            });
            match outcome {
                _ if !settled => return Err(CgroupError::Stuck { path: folder, what: "end" }),
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(CgroupError::Io { action: "remove", path: folder, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn empty(&self, folder: &Path) -> Result<(), CgroupError> {
        let procs = folder.join("cgroup.procs");
        let gone = wait::until(SETTLE, || {
            let members = read(&procs).unwrap_or_default();
            // Since Linux 5.14 version 2 kills a whole group at once, those being forked and frozen ones too.
            if !members.is_empty() && write(&folder.join("cgroup.kill"), "1").is_err() {
                for pid in members.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
                    kill_member(pid, &procs);
                }
                // A frozen process dies when it thaws. The freezer may not have the group, or be gone.
                drop(self.thaw());
            }
            members.is_empty()
        });
        if gone { Ok(()) } else { Err(CgroupError::Stuck { path: folder.to_owned(), what: "end" }) }
    }

    fn version(&self) -> Version {
        match self.hierarchies {
            Hierarchies::V1(_) => Version::V1,
            Hierarchies::V2(_) => Version::V2,
        }
    }

    /// The group's folders in all hierarchies, each once.
    fn folders(&self) -> BTreeSet<PathBuf> {
        match &self.hierarchies {
            Hierarchies::V1(trees) => trees.values().map(|tree| tree.join(&self.path)).collect(),
            Hierarchies::V2(root) => [root.join(&self.path)].into(),
        }
    }

    /// The group's folder in the hierarchy of this controller.
    fn folder(&self, controller: &'static str) -> Result<PathBuf, CgroupError> {
        match &self.hierarchies {
            Hierarchies::V1(trees) => {
                let tree = trees.get(controller).ok_or(CgroupError::MissingController { controller })?;
                Ok(tree.join(&self.path))
            }
            Hierarchies::V2(root) => Ok(root.join(&self.path)),
        }
    }
}

/// Which value goes into which controller's file. A shared CPU has a sixteenth of the weight of a
/// dedicated one; weights are those of an ordinary process of the host (1024 on v1, 100 on v2) for
/// a dedicated CPU.
fn limit_files(version: Version, limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
    let cpus = u64::from(limits.cpus);
    let quota = (cpus * CPU_PERIOD_US).to_string();
    let memory = limits.memory_bytes.to_string();
    let mut files = match version {
        Version::V1 => {
            let shares = cpus * if limits.dedicated_cpus { 1024 } else { 64 };
            vec![("memory", "memory.limit_in_bytes", memory), ("cpu", "cpu.shares", shares.to_string())]
        }
        Version::V2 => {
            let weight = (cpus * if limits.dedicated_cpus { 96 } else { 6 }).clamp(1, 10_000);
            vec![("memory", "memory.max", memory), ("cpu", "cpu.weight", weight.to_string())]
        }
    };
    files.push(("pids", "pids.max", limits.pids.to_string()));
    if limits.dedicated_cpus {
        match version {
            Version::V1 => {
                files.push(("cpu", "cpu.cfs_period_us", CPU_PERIOD_US.to_string()));
                files.push(("cpu", "cpu.cfs_quota_us", quota));
            }
            Version::V2 => files.push(("cpu", "cpu.max", format!("{quota} {CPU_PERIOD_US}"))),
        }
    }
    files
}

/// What keeps a machine from swapping: on v1 the limit is on memory and swap together.
fn swap_file(version: Version, limits: &Limits) -> (&'static str, String) {
    match version {
        Version::V1 => ("memory.memsw.limit_in_bytes", limits.memory_bytes.to_string()),
        Version::V2 => ("memory.swap.max", "0".to_owned()),
    }
}

/// The number after `name` in a file of `name number` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Kills a process if it is still a member once it is held: its number may have passed to another.
fn kill_member(pid: Pid, procs: &Path) {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let number = pid.as_raw_nonzero().to_string();
    if read(procs).is_ok_and(|members| members.lines().any(|line| line == number)) {
        // It may end by itself meanwhile.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

fn is_absent(error: &Error) -> bool {
    // Creating a file in a cgroup is refused, so a missing one shows as a lack of permission.
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied)
}

fn make(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(|source| CgroupError::Io { action: "make", path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Io { action: "read", path: path.to_owned(), source })
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let opened = fs::OpenOptions::new().write(true).open(path);
    opened
        .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| CgroupError::Io { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(cpus: u32, dedicated_cpus: bool) -> Limits {
        Limits { memory_bytes: 1 << 28, cpus, dedicated_cpus, pids: 99 }
    }

    fn value(version: Version, limits: &Limits, file: &str) -> Option<String> {
        limit_files(version, limits).into_iter().find(|(_, name, _)| *name == file).map(|(_, _, value)| value)
    }

    #[test]
    fn a_shared_cpu_is_a_sixteenth_and_may_use_idle_time() {
        let (shared, dedicated) = (limits(2, false), limits(2, true));
        assert_eq!(value(Version::V1, &shared, "cpu.shares").unwrap(), "128");
        assert_eq!(value(Version::V1, &dedicated, "cpu.shares").unwrap(), "2048");
        assert_eq!(value(Version::V2, &shared, "cpu.weight").unwrap(), "12");
        assert_eq!(value(Version::V2, &dedicated, "cpu.weight").unwrap(), "192");
        assert_eq!(value(Version::V1, &shared, "cpu.cfs_quota_us"), None);
        assert_eq!(value(Version::V2, &shared, "cpu.max"), None);
    }

    #[test]
    fn a_dedicated_cpu_is_a_quota() {
        assert_eq!(value(Version::V1, &limits(2, true), "cpu.cfs_quota_us").unwrap(), "200000");
        assert_eq!(value(Version::V2, &limits(2, true), "cpu.max").unwrap(), "200000 100000");
        assert_eq!(value(Version::V2, &limits(128, true), "cpu.weight").unwrap(), "10000");
    }

    #[test]
    fn paths_stay_in_their_tree() {
        for bad in ["", "/", "a/../b", "..", "a//b", "./a"] {
            assert!(Cgroup::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(Cgroup::new("/atoll-1/machine-2/").unwrap().path, "atoll-1/machine-2");
    }

    #[test]
    fn fields_are_whole_words() {
        let text = "oom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field(text, "kill"), None);
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "oom_kill"), Some(1));
    }
}
