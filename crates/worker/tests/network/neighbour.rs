//! A second host beside the test's own, and work in other namespaces.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Runtime};

use super::host::ip;

/// A host in a named network namespace of the test's, with threads of its own.
pub struct Neighbour {
    pub namespace: PathBuf,
    runtime: Option<Runtime>,
}

impl Neighbour {
    pub fn new(name: &str) -> Self {
        ip(&format!("netns add {name}"));
        let namespace = PathBuf::from("/run/netns").join(name);
        let file = File::open(&namespace).unwrap();
        // Threads inherit the namespaces of the thread that makes them.
        let maker = std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            ip("link set lo up");
            Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
        });
        Self { namespace, runtime: Some(maker.join().unwrap()) }
    }

    /// What `work` gives, done there.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.as_ref().unwrap().spawn(work).await.unwrap()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // Its threads may not be waited for where a test's future runs.
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// Stands in for the mesh: a wire between two hosts that have their ends named as the mesh's interface,
/// both with one hardware address, so that nobody is looked for.
pub fn lay_mesh(near: &str, far: &str, neighbour: &Neighbour) {
    let name = neighbour.namespace.file_name().unwrap().to_str().unwrap();
    ip(&format!("link add {near} mtu 1400 type veth peer name {far} mtu 1400 netns {name}"));
    for (host, link) in [(String::new(), near), (format!("-n {name} "), far)] {
        ip(&format!("{host}link set {link} address 02:00:00:00:00:01 arp off up"));
    }
}

/// Runs `work` in a network namespace.
pub fn inside<T: Send + 'static>(namespace: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = std::fs::File::open(namespace).unwrap();
    let thread = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    });
    thread.join().unwrap()
}
