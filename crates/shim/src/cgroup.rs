//! A machine's control group: limits, freezing, what it uses, and its end. Speaks cgroup v1 (one
//! tree for each controller) and v2 (one unified tree), whichever the host has. Paths come from the
//! caller; nothing outside the machine's own group is changed, except that parents are made and, on
//! v2, told to hand controllers down.

use std::fs;
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_guest_protocol::shim::{Limits, Stats};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::wait;

const ROOT: &str = "/sys/fs/cgroup";
/// Controllers of v1, each a tree of its own. `cpuacct` counts what `cpu` limits.
const V1_CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "freezer"];
const V2_CONTROLLERS: &str = "+memory +cpu +pids";
/// Length of the period that a CPU quota counts in, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Longest wait for a group to freeze, or to be empty after it was killed.
const SETTLE: Duration = Duration::from_secs(5);

/// What could not be done with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("this host has no cgroup controller \"{controller}\" below {ROOT}")]
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
    version: Version,
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
        let unified = Path::new(ROOT).join("cgroup.controllers").exists();
        let version = if unified { Version::V2 } else { Version::V1 };
        Ok(Self { version, path: path.to_owned() })
    }

    /// Makes the group with its limits.
    pub fn create(&self, limits: &Limits) -> Result<(), CgroupError> {
        match self.version {
            Version::V1 => {
                for controller in V1_CONTROLLERS {
                    if !Path::new(ROOT).join(controller).is_dir() {
                        return Err(CgroupError::MissingController { controller });
                    }
                    make(&self.v1(controller))?;
                }
            }
            Version::V2 => self.create_unified()?,
        }
        for (controller, file, value) in limit_files(self.version, limits) {
            self.write(controller, file, &value)?;
        }
        if self.version == Version::V1 {
            // Without swap accounting the kernel has no such file, and nothing to limit.
            let limit = limits.memory_bytes.to_string();
            match self.write("memory", "memory.memsw.limit_in_bytes", &limit) {
                Err(CgroupError::Io { source, .. }) if is_absent(&source) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn create_unified(&self) -> Result<(), CgroupError> {
        let offered = read(&Path::new(ROOT).join("cgroup.controllers"))?;
        for controller in ["memory", "cpu", "pids"] {
            if !offered.split_ascii_whitespace().any(|name| name == controller) {
                return Err(CgroupError::MissingController { controller });
            }
        }
        let mut folder = PathBuf::from(ROOT);
        for part in self.path.split('/') {
            write(&folder.join("cgroup.subtree_control"), V2_CONTROLLERS)?;
            folder.push(part);
            make(&folder)?;
        }
        Ok(())
    }

    /// Puts the calling process, which must have one thread, into the group.
    pub fn join(&self) -> Result<(), CgroupError> {
        // A thread that moves itself needs no lock of the whole host, which costs about 8 ms to take.
        // On v2 a process is cloned into its group instead, for the same reason.
        let file = match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        };
        self.folders().iter().try_for_each(|folder| write(&folder.join(file), "0"))
    }

    /// The unified group's folder, into which a process can be cloned; none on v1.
    pub fn clone_target(&self) -> Result<Option<OwnedFd>, CgroupError> {
        if self.version == Version::V1 {
            return Ok(None);
        }
        let path = self.v2();
        let folder = fs::File::open(&path).map_err(|source| CgroupError::Io { action: "open", path, source })?;
        Ok(Some(folder.into()))
    }

    /// Stops every process where it is, and returns when they stand still.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let (path, ask, settled) = match self.version {
            Version::V1 => (self.v1("freezer").join("freezer.state"), "FROZEN", "FROZEN"),
            Version::V2 => (self.v2().join("cgroup.freeze"), "1", "frozen 1"),
        };
        write(&path, ask)?;
        let observed = match self.version {
            Version::V1 => path.clone(),
            Version::V2 => self.v2().join("cgroup.events"),
        };
        let frozen =
            wait::until(SETTLE, || read(&observed).is_ok_and(|text| text.lines().any(|line| line.trim() == settled)));
        if frozen { Ok(()) } else { Err(CgroupError::Stuck { path, what: "freeze" }) }
    }

    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self.version {
            Version::V1 => write(&self.v1("freezer").join("freezer.state"), "THAWED"),
            Version::V2 => write(&self.v2().join("cgroup.freeze"), "0"),
        }
    }

    /// Whether the kernel killed a process of this group for memory.
    pub fn oom_killed(&self) -> Result<bool, CgroupError> {
        let path = match self.version {
            Version::V1 => self.v1("memory").join("memory.oom_control"),
            Version::V2 => self.v2().join("memory.events"),
        };
        Ok(field(&read(&path)?, "oom_kill").is_some_and(|count| count > 0))
    }

    pub fn stats(&self) -> Result<Stats, CgroupError> {
        let number = |path: PathBuf| Ok(read(&path)?.trim().parse::<u64>().unwrap_or(0));
        let (memory, cache, cpu_nanoseconds, processes) = match self.version {
            Version::V1 => {
                let memory = self.v1("memory");
                (
                    number(memory.join("memory.usage_in_bytes"))?,
                    field(&read(&memory.join("memory.stat"))?, "total_inactive_file"),
                    number(self.v1("cpuacct").join("cpuacct.usage"))?,
                    number(self.v1("pids").join("pids.current"))?,
                )
            }
            Version::V2 => {
                let group = self.v2();
                (
                    number(group.join("memory.current"))?,
                    field(&read(&group.join("memory.stat"))?, "inactive_file"),
                    field(&read(&group.join("cpu.stat"))?, "usage_usec").unwrap_or(0).saturating_mul(1000),
                    number(group.join("pids.current"))?,
                )
            }
        };
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
            for pid in members.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
                kill_member(pid, &procs);
            }
            if !members.is_empty() {
                // A frozen process dies when it thaws. The freezer may not have the group, or be gone.
                drop(self.thaw());
            }
            members.is_empty()
        });
        if gone { Ok(()) } else { Err(CgroupError::Stuck { path: folder.to_owned(), what: "end" }) }
    }

    fn folders(&self) -> Vec<PathBuf> {
        match self.version {
            Version::V1 => V1_CONTROLLERS.map(|controller| self.v1(controller)).to_vec(),
            Version::V2 => vec![self.v2()],
        }
    }

    fn v1(&self, controller: &str) -> PathBuf {
        Path::new(ROOT).join(controller).join(&self.path)
    }

    fn v2(&self) -> PathBuf {
        Path::new(ROOT).join(&self.path)
    }

    fn write(&self, controller: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        let folder = match self.version {
            Version::V1 => self.v1(controller),
            Version::V2 => self.v2(),
        };
        write(&folder.join(file), value)
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
            vec![
                ("memory", "memory.max", memory),
                ("memory", "memory.swap.max", "0".to_owned()),
                ("cpu", "cpu.weight", weight.to_string()),
            ]
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
