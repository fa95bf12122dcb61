//! Where this host's control group hierarchies are mounted, and of which version. Decided from texts of
//! the kernel alone; nothing here makes or changes groups.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Controllers of version 1 that a machine needs, each a tree of its own. `cpuacct` counts what `cpu`
/// limits.
pub const V1_CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "freezer"];
/// What a machine needs of version 2, where counting and freezing are in every group.
pub const V2_CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// The hierarchies that machines' groups are made in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchies {
    /// The tree of each controller that is mounted, some of them perhaps in the same one.
    V1(BTreeMap<&'static str, PathBuf>),
    /// The root of the unified tree.
    V2(PathBuf),
}

/// What is mounted of either version; both may be, on a host of systemd's hybrid kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    v1: BTreeMap<&'static str, PathBuf>,
    pub unified: Option<PathBuf>,
}

impl Mounts {
    /// Reads the text of `/proc/self/mountinfo`.
    pub fn parse(mountinfo: &str) -> Self {
        let mut mounts = Self::default();
        for (target, kind, options) in mountinfo.lines().filter_map(hierarchy) {
            match kind {
                "cgroup2" => drop(mounts.unified.get_or_insert(target)),
                _ => {
                    for controller in V1_CONTROLLERS {
                        if options.split(',').any(|option| option == controller) {
                            mounts.v1.entry(controller).or_insert_with(|| target.clone());
                        }
                    }
                }
            }
        }
        mounts
    }

    /// Which version to use, given what the unified root offers (its `cgroup.controllers`). A controller
    /// is of one version at a time: on a hybrid host the unified tree has processes but no controllers.
    pub fn choose(self, offered: &str) -> Hierarchies {
        let offers = |controller: &str| offered.split_ascii_whitespace().any(|name| name == controller);
        match self.unified {
            Some(root) if V2_CONTROLLERS.into_iter().all(offers) => Hierarchies::V2(root),
            _ => Hierarchies::V1(self.v1),
        }
    }
}

/// Mount point, file system and options, if a line is the mount of a whole hierarchy: a mount of a part
/// of one would lead our paths elsewhere.
fn hierarchy(line: &str) -> Option<(PathBuf, &str, &str)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, target) = (mount.next()?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
    (matches!(kind, "cgroup" | "cgroup2") && root == "/").then(|| (PathBuf::from(unescape(target)), kind, options))
}

/// The kernel writes spaces, tabs, line ends and backslashes of a path as octal numbers.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(path.to_owned(), |path, (written, meant)| path.replace(written, meant))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn choose(mountinfo: &str, offered: &str) -> Hierarchies {
        Mounts::parse(mountinfo).choose(offered)
    }

    fn v1(trees: [(&'static str, &str); 5]) -> Hierarchies {
        Hierarchies::V1(trees.map(|(controller, tree)| (controller, tree.into())).into())
    }

    const UNIFIED: &str = "\
24 30 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
29 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
";

    const SEPARATE: &str = "\
31 24 0:27 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
33 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
34 31 0:30 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct
35 31 0:31 / /sys/fs/cgroup/pids rw shared:12 - cgroup cgroup rw,pids
36 31 0:32 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
";

    const HYBRID: &str = "\
31 24 0:27 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
40 31 0:40 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
41 31 0:41 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
42 31 0:42 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:15 - cgroup cgroup rw,cpu,cpuacct
43 31 0:43 / /sys/fs/cgroup/memory rw,nosuid shared:16 - cgroup cgroup rw,memory
44 31 0:44 / /sys/fs/cgroup/pids rw,nosuid shared:17 - cgroup cgroup rw,pids
45 31 0:45 / /sys/fs/cgroup/freezer rw,nosuid shared:18 - cgroup cgroup rw,freezer
46 31 0:46 / /sys/fs/cgroup/cpuset rw,nosuid shared:19 - cgroup cgroup rw,cpuset
";

    #[test]
    fn a_unified_host_is_version_2() {
        let offered = "cpuset cpu io memory hugetlb pids rdma misc\n";
        assert_eq!(choose(UNIFIED, offered), Hierarchies::V2("/sys/fs/cgroup".into()));
    }

    #[test]
    fn separate_trees_are_version_1() {
        let root = Path::new("/sys/fs/cgroup");
        let expected = V1_CONTROLLERS.map(|controller| (controller, root.join(controller)));
        assert_eq!(choose(SEPARATE, ""), Hierarchies::V1(expected.into()));
    }

    #[test]
    fn a_hybrid_host_is_version_1_because_its_unified_tree_offers_nothing() {
        let expected = v1([
            ("memory", "/sys/fs/cgroup/memory"),
            ("cpu", "/sys/fs/cgroup/cpu,cpuacct"),
            ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            ("pids", "/sys/fs/cgroup/pids"),
            ("freezer", "/sys/fs/cgroup/freezer"),
        ]);
        assert_eq!(choose(HYBRID, ""), expected);
        // Controllers that no version 1 tree has taken do not change that.
        assert_eq!(choose(HYBRID, "hugetlb misc\n"), expected);
    }

    #[test]
    fn a_unified_tree_elsewhere_is_used_when_it_has_the_controllers() {
        let text = "40 31 0:40 / /mnt/control\\040groups rw - cgroup2 none rw\n\
                    41 31 0:41 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        assert_eq!(choose(text, "cpu memory pids"), Hierarchies::V2("/mnt/control groups".into()));
        // Without one of them there is nothing to make a whole group of.
        assert_eq!(choose(text, "cpu pids"), Hierarchies::V1(BTreeMap::new()));
    }

    #[test]
    fn mounts_of_parts_and_other_file_systems_are_passed_over() {
        let text = "50 31 0:26 /system.slice /mnt/part rw - cgroup2 cgroup2 rw\n\
                    51 31 0:43 /docker/1 /mnt/memory rw - cgroup cgroup rw,memory\n\
                    52 31 0:50 / /sys/fs/cgroup/memory rw - tmpfs memory rw,memory\n\
                    broken\n\n53 - cgroup2\n";
        assert_eq!(Mounts::parse(text), Mounts::default());
        let text = format!("{text}{UNIFIED}");
        assert_eq!(Mounts::parse(&text).unified, Some("/sys/fs/cgroup".into()));
    }

    #[test]
    fn a_name_that_only_begins_like_a_controller_is_another() {
        let text = "42 31 0:42 / /sys/fs/cgroup/set rw - cgroup cgroup rw,cpuset,name=memory\n";
        assert_eq!(choose(text, ""), Hierarchies::V1(BTreeMap::new()));
    }
}
