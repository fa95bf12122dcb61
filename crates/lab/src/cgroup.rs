//! The lab's control groups: below every hierarchy of this machine a group of the lab, in it one a host.
//! They hold together what belongs to a host, so that it can be frozen, counted and cleaned.
//!
//! Works with version 1 hierarchies, with version 2, and with both side by side.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// On version 2 a group with children may hold no processes, and a host's programs want children: the
/// lab's own processes sit in this leaf.
const LEAF: &str = "init";

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount: PathBuf,
    /// Options that mount this hierarchy again, such as `"cpu"`; none is version 2.
    pub options: Option<String>,
}

/// Every hierarchy, from the text of `/proc/self/mountinfo`.
fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let Some(target) = mount.split(' ').nth(4) else { continue };
        let mut fields = filesystem.split(' ');
        let options = match (fields.next(), fields.nth(1)) {
            (Some("cgroup2"), _) => None,
            (Some("cgroup"), Some(options)) => {
                let naming: Vec<&str> = options.split(',').filter(|option| !matches!(*option, "rw" | "ro")).collect();
                Some(naming.join(","))
            }
            _ => continue,
        };
        // A hierarchy mounted twice is one hierarchy.
        if found.iter().all(|known| known.options != options) {
            found.push(Hierarchy { mount: PathBuf::from(target), options });
        }
    }
    found
}

/// A group of the same name below every hierarchy.
#[derive(Debug, Clone)]
pub struct Group {
    hierarchies: Vec<Hierarchy>,
    name: PathBuf,
}

impl Group {
    /// The group of this name (a path below the hierarchies' roots), whether it exists or not.
    pub fn named(name: impl Into<PathBuf>) -> io::Result<Self> {
        let hierarchies = parse_mountinfo(&fs::read_to_string("/proc/self/mountinfo")?);
        Ok(Self { hierarchies, name: name.into() })
    }

    pub fn child(&self, name: &str) -> Self {
        Self { hierarchies: self.hierarchies.clone(), name: self.name.join(name) }
    }

    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.mount.join(&self.name))
    }

    /// Makes the group where it is missing.
    pub fn create(&self) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.mount.join(&self.name);
            fs::create_dir_all(&folder)?;
            match &hierarchy.options {
                Some(_) => inherit_cpuset(&folder)?,
                None => {
                    enable_controllers(&hierarchy.mount, &self.name)?;
                    fs::create_dir_all(folder.join(LEAF))?;
                }
            }
        }
        Ok(())
    }

    /// Moves the calling process in: to the group itself, which a cgroup namespace then takes as root.
    pub fn enter(&self) -> io::Result<()> {
        self.folders().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), "0"))
    }

    /// Moves the calling process into the leaf, where there is one.
    pub fn enter_leaf(&self) -> io::Result<()> {
        self.enter_leaf_where(|_| true)
    }

    /// The same for a real-time process: a version 1 processor group takes none unless it was given a share
    /// of real time.
    pub fn enter_leaf_in_real_time(&self) -> io::Result<()> {
        let schedules =
            |hierarchy: &Hierarchy| hierarchy.options.iter().flat_map(|options| options.split(',')).any(|o| o == "cpu");
        self.enter_leaf_where(|hierarchy| !schedules(hierarchy))
    }

    fn enter_leaf_where(&self, wanted: impl Fn(&Hierarchy) -> bool) -> io::Result<()> {
        for hierarchy in self.hierarchies.iter().filter(|hierarchy| wanted(hierarchy)) {
            let folder = hierarchy.mount.join(&self.name);
            let leaf = if hierarchy.options.is_none() { folder.join(LEAF) } else { folder };
            fs::write(leaf.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Stops or resumes everything in the group.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let v1 = self.hierarchies.iter().find(|h| h.options.as_deref() == Some("freezer"));
        match (v1, self.hierarchies.iter().find(|h| h.options.is_none())) {
            (Some(v1), _) => {
                let state = if frozen { "FROZEN" } else { "THAWED" };
                fs::write(v1.mount.join(&self.name).join("freezer.state"), state)
            }
            (None, Some(v2)) => {
                fs::write(v2.mount.join(&self.name).join("cgroup.freeze"), if frozen { "1" } else { "0" })
            }
            (None, None) => Err(io::Error::new(ErrorKind::Unsupported, "this machine has no freezer")),
        }
    }

    /// Everyone in the group and below, in any hierarchy.
    pub fn members(&self) -> io::Result<Vec<Pid>> {
        let mut members = Vec::new();
        for folder in self.folders() {
            for group in with_descendants(&folder)? {
                let text = match fs::read_to_string(group.join("cgroup.procs")) {
                    Err(error) if gone(&error) => continue,
                    other => other?,
                };
                // Zero stands for a process that this namespace cannot see.
                members.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
            }
        }
        members.sort_by_key(|pid: &Pid| pid.as_raw_nonzero());
        members.dedup();
        Ok(members)
    }

    /// Kills everything in the group, frozen or not, and removes it from every hierarchy. Doing it
    /// again, or for a group that never was, does nothing.
    pub fn destroy(&self, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            for pid in self.members()? {
                match rustix::process::kill_process(pid, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.thaw_all()?;
            match self.remove() {
                Ok(()) => return Ok(()),
                // The dying leave a moment later.
                Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A frozen process dies only once thawed.
    fn thaw_all(&self) -> io::Result<()> {
        for folder in self.folders() {
            for group in with_descendants(&folder)? {
                for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                    let file = group.join(file);
                    if file.exists()
                        && let Err(error) = fs::write(&file, value)
                        && !gone(&error)
                    {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn remove(&self) -> io::Result<()> {
        for folder in self.folders() {
            // Children come after their parents in the list.
            for group in with_descendants(&folder)?.into_iter().rev() {
                match fs::remove_dir(&group) {
                    Err(error) if !gone(&error) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn with_descendants(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let entries = match fs::read_dir(&found[next]) {
            Err(error) if gone(&error) => Vec::new(),
            other => other?.collect::<Result<Vec<_>, _>>()?,
        };
        for entry in entries {
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(found)
}

/// A version 1 cpuset accepts nobody until it is told its processors and memory.
fn inherit_cpuset(folder: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, parents) = (folder.join(file), folder.with_file_name(file));
        if own.exists() && parents.exists() {
            fs::write(own, fs::read_to_string(parents)?)?;
        }
    }
    Ok(())
}

/// Hands every controller that version 2 has down to a group.
fn enable_controllers(mount: &Path, name: &Path) -> io::Result<()> {
    let controllers = fs::read_to_string(mount.join("cgroup.controllers"))?;
    let all: Vec<String> = controllers.split_whitespace().map(|controller| format!("+{controller}")).collect();
    if all.is_empty() {
        return Ok(());
    }
    let mut folder = mount.to_owned();
    for part in name {
        fs::write(folder.join("cgroup.subtree_control"), all.join(" "))?;
        folder.push(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let text = "25 1 0:22 / /sys rw,nosuid - sysfs sysfs rw\n\
                    30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                    31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    33 25 0:28 / /mnt/again rw - cgroup2 cgroup2 rw\n";
        let found = parse_mountinfo(text);
        let options: Vec<_> = found.iter().map(|h| h.options.as_deref()).collect();
        assert_eq!(options, [Some("cpu,cpuacct"), Some("xattr,name=systemd"), None]);
        assert_eq!(found[2].mount, Path::new("/sys/fs/cgroup/unified"));
    }
}
