//! Fakes of what the agent needs, faithful at the seams: machines outlive the agent that started
//! them, listen on real sockets, leave an exit for whoever adopts them, and refuse what a real driver
//! refuses. A [`World`] is the host; agents come and go above it.

mod driver;
mod rest;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use atoll_model::policy::NetworkLimits;
use atoll_model::{MachineId, Row, RowKey};

use atoll_worker::seams::{Deps, NetworkPlan, StepHook};
use atoll_worker::{Knobs, SystemClock, WorkerConfig};

pub use driver::FakeDriver;
pub use rest::{FakeImages, FakeNetworks, FakeRows, FakeSeal};

/// A host with what runs and lies on it.
pub struct World {
    pub dir: tempfile::TempDir,
    pub machines: Mutex<HashMap<MachineId, Arc<driver::FakeMachine>>>,
    pub attached: Mutex<HashMap<MachineId, NetworkPlan>>,
    /// What each attached machine is held to.
    pub limited: Mutex<HashMap<MachineId, NetworkLimits>>,
    pub cgroups: Mutex<Vec<String>>,
    pub rows: Mutex<HashMap<RowKey, Row>>,
    pub pinned: Mutex<Vec<String>>,
    /// Digests that cannot be fetched.
    pub missing_images: Mutex<Vec<String>>,
    pub starts: AtomicU32,
    /// Second byte of this world's loopback addresses, so that worlds do not meet.
    block: u8,
}

impl World {
    pub fn new() -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Tests of several processes share the loopback: the pid keeps their blocks apart mostly,
        // and ports are only bound on addresses of a slot.
        let number = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() * 31;
        Arc::new(Self {
            dir: tempfile::tempdir().unwrap(),
            machines: Mutex::default(),
            attached: Mutex::default(),
            limited: Mutex::default(),
            cgroups: Mutex::default(),
            rows: Mutex::default(),
            pinned: Mutex::default(),
            missing_images: Mutex::default(),
            starts: AtomicU32::new(0),
            block: (number % 250 + 1) as u8,
        })
    }

    pub fn deps(self: &Arc<Self>, steps: Arc<dyn StepHook>) -> Deps {
        Deps {
            driver: Arc::new(FakeDriver(self.clone())),
            images: Arc::new(FakeImages(self.clone())),
            networks: Arc::new(FakeNetworks(self.clone())),
            seal: Arc::new(FakeSeal),
            rows: Arc::new(FakeRows(self.clone())),
            clock: Arc::new(SystemClock),
            steps,
        }
    }

    pub fn config(&self) -> WorkerConfig {
        WorkerConfig {
            state_dir: self.dir.path().to_path_buf(),
            node: "ams1".parse().unwrap(),
            region: "ams".parse().unwrap(),
            instance: 0x1a2b_3c4d,
            epoch: 1,
            cpus: 2,
            memory_mb: 4096,
            seed: 7,
            knobs: Knobs { check_interval: std::time::Duration::from_millis(50), ..Knobs::default() },
        }
    }

    /// The host loses its processes, namespaces and cgroups; disks stay.
    pub fn reboot(&self) {
        for (_, machine) in self.machines.lock().unwrap().drain() {
            machine.end(137, Some(9), false);
        }
        self.attached.lock().unwrap().clear();
        self.cgroups.lock().unwrap().clear();
    }

    fn address(&self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::new(127, self.block, (slot >> 8) as u8, (slot & 255) as u8 + 1)
    }

    /// What is left of machines on this host, as sentences; empty when nothing is.
    pub fn leaks(&self) -> Vec<String> {
        let machines = self.machines.lock().unwrap();
        let mut leaks: Vec<String> = machines.keys().map(|id| format!("processes of {id}")).collect();
        leaks.extend(self.attached.lock().unwrap().keys().map(|id| format!("network of {id}")));
        leaks.extend(self.cgroups.lock().unwrap().iter().map(|cgroup| format!("cgroup {cgroup}")));
        leaks.extend(self.rows.lock().unwrap().keys().map(|key| format!("row {key}")));
        if let Ok(entries) = std::fs::read_dir(self.dir.path().join("machines")) {
            leaks.extend(entries.flatten().map(|entry| format!("folder {}", entry.path().display())));
        }
        leaks
    }
}
