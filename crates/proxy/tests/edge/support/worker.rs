//! A node's worker: really starts and stops machines, and tells the catalogue.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use atoll_model::{MachineId, MachineState, MachineVersion};
use atoll_proxy::surroundings::{IdleError, MachineLoad, WakeError, Waker, Woken};

use super::machine::Machine;
use super::platform::Catalogue;

pub struct Worker {
    pub machines: Mutex<HashMap<MachineId, Arc<Machine>>>,
    pub catalogue: Mutex<Weak<Catalogue>>,
    pub wakes: AtomicU64,
    pub idles: Mutex<Vec<(MachineId, bool)>>,
    pub loads: Mutex<Vec<MachineLoad>>,
    /// How long a start takes.
    pub start_time: Mutex<Duration>,
    /// Whether the catalogue learns of changes; off: it stays stale.
    pub publishes: Mutex<bool>,
    /// What `wake` answers instead of starting.
    pub refuses: Mutex<Option<WakeError>>,
}

impl Worker {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            machines: Mutex::default(),
            catalogue: Mutex::default(),
            wakes: AtomicU64::new(0),
            idles: Mutex::default(),
            loads: Mutex::default(),
            start_time: Mutex::new(Duration::from_millis(20)),
            publishes: Mutex::new(true),
            refuses: Mutex::new(None),
        })
    }

    fn publish(&self, machine: MachineId, state: MachineState) {
        if *self.publishes.lock().unwrap()
            && let Some(catalogue) = self.catalogue.lock().unwrap().upgrade()
        {
            catalogue.change_machine(machine, |row| row.state = state);
        }
    }
}

#[async_trait]
impl Waker for Worker {
    async fn wake(&self, machine: MachineId, _: u16, _: Duration) -> Result<Woken, WakeError> {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.refuses.lock().unwrap().clone() {
            return Err(error);
        }
        let found = self.machines.lock().unwrap().get(&machine).cloned();
        let found = found.ok_or(WakeError::NotFound(machine))?;
        let started = !found.is_running();
        if started {
            let pause = *self.start_time.lock().unwrap();
            tokio::time::sleep(pause).await;
            found.start().await;
            self.publish(machine, MachineState::Started);
        }
        Ok(Woken { started })
    }

    async fn idle(&self, machine: MachineId, _: MachineVersion, suspend: bool) -> Result<(), IdleError> {
        self.idles.lock().unwrap().push((machine, suspend));
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Some(found) = self.machines.lock().unwrap().get(&machine) {
            found.kill();
        }
        self.publish(machine, MachineState::Stopped);
        Ok(())
    }

    fn report_load(&self, loads: Vec<MachineLoad>) {
        *self.loads.lock().unwrap() = loads;
    }
}
