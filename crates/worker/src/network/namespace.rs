//! Network namespaces: made ahead of time without a name, given one when a machine takes them. One
//! without a name vanishes with the agent, so that nothing is left of a pool.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::netlink::Netlink;

/// Where named namespaces lie, as `ip netns` expects it.
pub const FOLDER: &str = "/run/netns";

/// A namespace with its loopback up, and a way to configure it from outside.
pub struct Namespace {
    pub file: OwnedFd,
    pub netlink: Netlink,
}

/// Makes one; takes about a millisecond. Runs on a thread of its own, as it changes the thread.
fn make() -> io::Result<Namespace> {
    // SAFETY: the thread was made for this call and shares nothing that depends on its namespace;
    // file descriptors stay shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    let file = File::open("/proc/thread-self/ns/net")?;
    let mut netlink = Netlink::open()?;
    const LOOPBACK: u32 = 1;
    netlink.set_up(LOOPBACK)?;
    Ok(Namespace { file: file.into(), netlink })
}

fn make_on_own_thread() -> io::Result<Namespace> {
    let thread = std::thread::Builder::new().name("namespace".into()).spawn(make)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes a namespace ended abnormally")))
}

/// Ready namespaces, made by a thread that sleeps while there are enough.
pub struct Pool {
    ready: Mutex<Receiver<io::Result<Namespace>>>,
}

impl Pool {
    /// Keeps `size` of them; 0 is taken as 1.
    pub fn start(size: usize) -> io::Result<Self> {
        // One more waits in the thread's hands.
        let (full, ready) = sync_channel(size.saturating_sub(1));
        std::thread::Builder::new().name("namespaces".into()).spawn(move || fill(&full))?;
        Ok(Self { ready: Mutex::new(ready) })
    }

    /// A ready one, or one made now.
    pub fn take(&self) -> io::Result<Namespace> {
        let ready = self.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner).try_recv();
        match ready {
            Ok(namespace) => namespace,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => make_on_own_thread(),
        }
    }
}

/// Ends when the pool is dropped.
fn fill(full: &SyncSender<io::Result<Namespace>>) {
    while full.send(make_on_own_thread()).is_ok() {}
}

pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Gives the namespace a name that lasts until [`unname`].
pub fn name(namespace: &Namespace, name: &str) -> io::Result<PathBuf> {
    std::fs::create_dir_all(FOLDER)?;
    let path = path(name);
    File::create(&path)?;
    mount_bind(format!("/proc/self/fd/{}", namespace.file.as_raw_fd()), &path)?;
    Ok(path)
}

/// Takes the name away; the namespace ends when its last process has.
pub fn unname(name: &str) -> io::Result<()> {
    let path = path(name);
    loop {
        match unmount(&path, UnmountFlags::DETACH) {
            // Mounted twice by an agent that died in between.
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
