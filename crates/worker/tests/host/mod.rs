//! A host of its own for each test: a network namespace and a private `/run`, gone with the test.

use std::path::PathBuf;
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs the test on a host of its own; gives it a folder for state.
pub fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send + 'static) {
    assert!(rustix::process::geteuid().is_root(), "these tests make namespaces: run them as root");
    let host = std::thread::spawn(move || {
        // SAFETY: this thread is the test's own and nothing on it depends on the namespaces left.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
        ip("link set lo up");
        let state = tempfile::tempdir().unwrap();
        // Threads inherit the namespaces of the thread that makes them.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test(state.path().to_path_buf()));
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
