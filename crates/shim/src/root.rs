//! A machine's root file system: the image's layers under a writable top, its own `/proc`, `/sys`
//! and `/dev`, and nothing of the host. Runs in the machine's new namespaces; all mounts are seen
//! and live there alone, so that they end with the machine.

use std::ffi::CString;
use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use atoll_guest_protocol::shim::{Failure, Launch, layout};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_change, mount_remount,
    move_mount, unmount,
};

use crate::failure::{configuration, host};
use crate::inside;

/// What of `/proc` and `/sys` tells of the host or steers it. A path that does not exist on this
/// kernel needs no mask.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Character devices of every machine: name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("pts/ptmx", "ptmx"),
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Makes the root in `dir` and enters it.
pub fn enter(dir: &Path, launch: &Launch) -> Result<(), Failure> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|error| host("separate the machine's mounts", error))?;
    let target = dir.join(layout::WRITABLE).join("root");
    mount_layers(dir, launch)?;
    let root = open_folder(&target).map_err(|error| host(format_args!("open {target:?}"), error))?;
    // Before anything else is mounted, so that no file can land on what is not the machine's disk.
    for file in &launch.files {
        inside::write_file(root.as_fd(), &file.path, &file.content, file.mode)
            .map_err(|error| configuration(format_args!("write {:?} into the machine", file.path), error))?;
    }
    mount_system(root.as_fd())?;
    pivot(root.as_fd()).map_err(|error| host("enter the machine's root", error))?;
    hide()
}

/// The layers are named by descriptors below `/proc/self/fd`, which keeps the option string short,
/// however many and wherever they are, and lets their names hold any character.
fn mount_layers(dir: &Path, launch: &Launch) -> Result<(), Failure> {
    if launch.layers.is_empty() {
        return Err(configuration("make a root", "the image has no layers"));
    }
    let open = |path: &Path| open_folder(path).map_err(|error| host(format_args!("open the layer {path:?}"), error));
    let layers: Vec<OwnedFd> =
        launch.layers.iter().rev().map(|layer| open(Path::new(layer))).collect::<Result<_, _>>()?;
    let lower: Vec<String> = layers.iter().map(|layer| layer.as_raw_fd().to_string()).collect();
    let mut top = Vec::new();
    for name in ["upper", "work", "root"] {
        let path = dir.join(layout::WRITABLE).join(name);
        std::fs::create_dir_all(&path).map_err(|error| host(format_args!("make {path:?}"), error))?;
        top.push(open(&path)?);
    }
    // Volatile: the writable top is thrown away after the run, so nothing need reach the disk in order.
    let options =
        format!("lowerdir={},upperdir={},workdir={},volatile", lower.join(":"), top[0].as_raw_fd(), top[1].as_raw_fd());
    let cannot = |error: Errno| host(format_args!("mount the image's {} layers", launch.layers.len()), error);
    let options = CString::new(options).map_err(|_| host("mount the image", "a zero byte"))?;
    let target = top[2].as_raw_fd().to_string();
    let here = open(dir)?;
    rustix::process::chdir("/proc/self/fd").map_err(cannot)?;
    // Device nodes of the image are of no effect: the machine gets its own below.
    mount("overlay", target.as_str(), "overlay", MountFlags::NODEV, Some(options.as_c_str())).map_err(cannot)?;
    rustix::process::fchdir(&here).map_err(cannot)
}

/// A file system of the kernel's own, with its options.
struct System<'a> {
    kind: &'a str,
    options: &'a [(&'a str, &'a str)],
    attributes: MountAttrFlags,
}

fn mount_system(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let guarded =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let read_only = guarded | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let dev_attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let cannot = |what: &str, error: Errno| match error {
        Errno::LOOP | Errno::NOTDIR => configuration(format_args!("mount {what}"), "the image has no folder there"),
        error => host(format_args!("mount {what}"), error),
    };
    let place = |folder: BorrowedFd<'_>, name: &str, system: System<'_>| -> Result<OwnedFd, Failure> {
        let point = inside::mount_point(folder, name).map_err(|error| cannot(name, error))?;
        system.mount_on(point.as_fd()).map_err(|error| cannot(name, error))
    };
    place(root, "proc", System { kind: "proc", options: &[], attributes: guarded })?;
    place(root, "sys", System { kind: "sysfs", options: &[], attributes: read_only })?;
    let small = [("mode", "755"), ("size", "65536k")];
    let dev = place(root, "dev", System { kind: "tmpfs", options: &small, attributes: dev_attributes })?;
    make_devices(dev.as_fd()).map_err(|error| host("make the machine's devices", error))?;
    let terminals = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    place(dev.as_fd(), "pts", System { kind: "devpts", options: &terminals, attributes: dev_attributes })?;
    let shared = [("mode", "1777"), ("size", "65536k")];
    place(dev.as_fd(), "shm", System { kind: "tmpfs", options: &shared, attributes: guarded })?;
    place(dev.as_fd(), "mqueue", System { kind: "mqueue", options: &[], attributes: guarded })?;
    Ok(())
}

impl System<'_> {
    fn mount_on(&self, point: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let context = fsopen(self.kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (name, value) in self.options {
            fsconfig_set_string(context.as_fd(), *name, *value)?;
        }
        if self.attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) && self.kind != "sysfs" {
            fsconfig_set_flag(context.as_fd(), "ro")?;
        }
        fsconfig_create(context.as_fd())?;
        let mounted = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, self.attributes)?;
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(mounted.as_fd(), "", point, "", empty)?;
        Ok(mounted)
    }
}

fn make_devices(dev: BorrowedFd<'_>) -> Result<(), Errno> {
    let mask = rustix::process::umask(Mode::empty());
    let mut outcome = Ok(());
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        outcome = outcome.and(mknodat(dev, name, FileType::CharacterDevice, mode, makedev(major, minor)));
    }
    rustix::process::umask(mask);
    outcome?;
    DEVICE_LINKS.iter().try_for_each(|(target, name)| symlinkat(*target, dev, *name))
}

/// Makes `root` the root of this namespace and lets go of the host's.
fn pivot(root: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::process::fchdir(root)?;
    // The old root ends up mounted over the new one, where "." still names the old.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Paths are those of `/proc` and `/sys`, which hold no links of the image.
fn hide() -> Result<(), Failure> {
    let cannot = |what: &str, path: &str, error: Errno| host(format_args!("{what} {path}"), error);
    for path in READ_ONLY {
        let bound = rustix::mount::mount_bind(path, path);
        match bound.and_then(|()| mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | GUARDED, c"")) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(cannot("make read-only", path, error)),
        }
    }
    for path in MASKED {
        // A folder is covered by an empty one, a file by the null device.
        let covered = match rustix::fs::statat(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                mount("tmpfs", path, "tmpfs", MountFlags::RDONLY | GUARDED, Some(c"size=0k"))
            }
            Ok(_) => rustix::mount::mount_bind("/dev/null", path),
            Err(error) => Err(error),
        };
        match covered {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(cannot("mask", path, error)),
        }
    }
    Ok(())
}

const GUARDED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

fn open_folder(path: &Path) -> Result<OwnedFd, impl Display + use<>> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
