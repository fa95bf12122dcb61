//! Starts a machine's first process: a clone of the shim in new namespaces, which builds its root,
//! gives up its privileges and becomes the guest init. The shim has one thread, so the clone may run
//! ordinary code.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use atoll_guest_protocol::shim::{Failure, Launch};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::cgroup::Cgroup;
use crate::failure::{cgroup as cgroup_failure, host};
use crate::{privileges, root, seccomp};

/// Where the guest expects its channel.
const CHANNEL_FD: i32 = 3;

/// Takes 64 bits, which the C library's name for it does not.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A machine's first process, which has become the guest init.
#[derive(Debug)]
pub struct FirstProcess {
    pub pid: Pid,
    /// Readable once the process has ended.
    pub handle: OwnedFd,
}

/// A started machine.
#[derive(Debug)]
pub struct Started {
    pub process: FirstProcess,
    /// The host's end of the guest's channel, non-blocking.
    pub channel: UnixStream,
    /// When the guest had been executed, in microseconds of the host's monotonic clock.
    pub executed_us: u64,
}

/// Starts the machine. The group must exist. On failure no process is left.
pub fn start(dir: &Path, launch: &Launch, cgroup: &Cgroup) -> Result<Started, Failure> {
    let (channel, guest_channel) = UnixStream::pair().map_err(|error| host("make the guest's channel", error))?;
    channel.set_nonblocking(true).map_err(|error| host("make the guest's channel", error))?;
    let (report, child_report) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| host("make a pipe", error))?;
    let target = cgroup.clone_target().map_err(cgroup_failure)?;
    let Some((pid, handle)) = clone_into(target.as_ref()).map_err(|error| host("make the machine's process", error))?
    else {
        drop((report, channel));
        let joined = target.is_some();
        let failure = match become_guest(dir, launch, cgroup, joined, &guest_channel) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        // A lost report shows as a guest that never said hello.
        if let Ok(text) = serde_json::to_vec(&failure) {
            drop(File::from(child_report).write_all(&text));
        }
        // SAFETY: ends the clone without running the shim's exit handlers.
        unsafe { libc::_exit(1) }
    };
    drop((child_report, guest_channel));
    let mut text = Vec::new();
    File::from(report).read_to_end(&mut text).map_err(|error| host("read the machine's report", error))?;
    if text.is_empty() {
        return Ok(Started { process: FirstProcess { pid, handle }, channel, executed_us: monotonic_us() });
    }
    // It has reported and is ending.
    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    Err(serde_json::from_slice(&text).unwrap_or_else(|error| host("understand the machine's report", error)))
}

fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}

/// Clones this process into new namespaces; none in the clone.
fn clone_into(cgroup: Option<&OwnedFd>) -> Result<Option<(Pid, OwnedFd)>, Error> {
    let mut handle: i32 = -1;
    // SAFETY: all fields are numbers, for which zero means "not given".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags =
        (libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_PIDFD) as u64;
    arguments.pidfd = &raw mut handle as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is a fork; the arguments live through the call, and the process
    // has one thread, so the clone finds every lock free.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(Error::last_os_error()),
        0 => Ok(None),
        // SAFETY: the kernel wrote a new descriptor for the caller to own.
        pid => Ok(Pid::from_raw(pid as i32).map(|pid| (pid, unsafe { OwnedFd::from_raw_fd(handle) }))),
    }
}

/// Runs in the clone and returns only when it failed.
fn become_guest(
    dir: &Path,
    launch: &Launch,
    cgroup: &Cgroup,
    joined: bool,
    channel: &UnixStream,
) -> Result<Infallible, Failure> {
    // The machine dies with its shim. Should that have happened already, the guest finds its channel closed.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| host("bind the machine to its shim", error))?;
    rustix::process::setsid().map_err(|error| host("make a session", error))?;
    // The shim protects itself from the kernel's choice of what to kill; the machine must not inherit that.
    std::fs::write("/proc/self/oom_score_adj", "0").map_err(|error| host("set the machine's OOM score", error))?;
    if !joined {
        cgroup.join().map_err(cgroup_failure)?;
    }
    // SAFETY: descriptors are not unshared, so no reference to one changes meaning.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }.map_err(|error| host("make a cgroup namespace", error))?;
    join_network(&launch.network_namespace)?;
    rustix::system::sethostname(launch.hostname.as_bytes())
        .map_err(|error| host(format_args!("set the hostname {:?}", launch.hostname), error))?;
    let guest = private_guest(&launch.guest)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    root::enter(dir, launch)?;
    arrange_descriptors(channel).map_err(|error| host("arrange the guest's descriptors", error))?;
    privileges::drop_privileges()?;
    seccomp::restrict()?;
    execute(&guest)
}

fn join_network(path: &str) -> Result<(), Failure> {
    let cannot = |error: rustix::io::Errno| host(format_args!("join the network namespace {path:?}"), error);
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(cannot)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(cannot)
}

/// The guest's binary as a read-only mount of its own that is nowhere in the machine's root: all
/// machines share its memory, and none can change it, even through `/proc`.
fn private_guest(path: &str) -> Result<OwnedFd, Failure> {
    let cannot = |error: &dyn std::fmt::Display| host(format_args!("open the guest {path:?}"), error);
    let guest = open_tree(rustix::fs::CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|error| cannot(&error))?;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let attributes = MountAttributes { set: u64::from(set.bits()), clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: the path is a zero-terminated text and the attributes live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            guest.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == -1 { Err(cannot(&Error::last_os_error())) } else { Ok(guest) }
}

/// Leaves the guest nothing but its channel and three ends of the machine's own null device.
fn arrange_descriptors(channel: &UnixStream) -> Result<(), Error> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // Low numbers may be taken by what is to be placed, so both are first moved out of the way.
    let null = rustix::io::fcntl_dupfd_cloexec(&null, CHANNEL_FD + 1)?;
    let channel = rustix::io::fcntl_dupfd_cloexec(channel, CHANNEL_FD + 1)?;
    for (source, target) in [(&null, 0), (&null, 1), (&null, 2), (&channel, CHANNEL_FD)] {
        // SAFETY: the targets' owners never run again: this process executes another program or ends.
        if unsafe { libc::dup2(source.as_raw_fd(), target) } == -1 {
            return Err(Error::last_os_error());
        }
    }
    // SAFETY: only marks descriptors, and none of this process's owners relies on the mark's absence.
    match unsafe { libc::close_range(CHANNEL_FD as u32 + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

fn execute(guest: &OwnedFd) -> Result<Infallible, Failure> {
    let name: &CStr = c"atoll-guest";
    let args = [name.as_ptr(), std::ptr::null()];
    let env: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: all pointers are to zero-terminated texts in arrays that end with a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            guest.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(host("execute the guest", Error::last_os_error()))
}
