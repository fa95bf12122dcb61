//! Which machines there are, which slots they hold, and what memory is promised to them. The only
//! state that machines share; changed in short critical sections, never across an await.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use atoll_model::MachineId;
use atoll_model::guest::Guest;

use crate::capacity::Capacity;
use crate::error::WorkerError;
use crate::machine::Handle;

pub struct Registry {
    inner: Mutex<Inner>,
    capacity: Capacity,
    slots: u32,
    max_machines: usize,
    /// Something changed that decides which images are needed.
    pins: Notify,
}

#[derive(Default)]
struct Inner {
    machines: HashMap<MachineId, Option<Handle>>,
    /// Memory in MB and slot of each machine that is not destroyed.
    promises: HashMap<MachineId, Promise>,
    taken: BTreeSet<u32>,
    closed: bool,
}

#[derive(Clone, Copy)]
struct Promise {
    memory_mb: u64,
    slot: u32,
}

impl Registry {
    pub fn new(capacity: Capacity, slots: u32, max_machines: usize) -> Self {
        Self { inner: Mutex::default(), capacity, slots, max_machines, pins: Notify::new() }
    }

    pub fn get(&self, machine: MachineId) -> Result<Handle, WorkerError> {
        match self.lock().machines.get(&machine) {
            Some(Some(handle)) => Ok(handle.clone()),
            Some(None) => Err(WorkerError::Unavailable { machine, reason: "it is being created" }),
            None => Err(WorkerError::NotFound { machine }),
        }
    }

    pub fn all(&self) -> Vec<Handle> {
        self.lock().machines.values().flatten().cloned().collect()
    }

    /// Promises memory and a slot to a new machine, before anything of it is recorded.
    pub fn reserve(&self, machine: MachineId, guest: &Guest) -> Result<u32, WorkerError> {
        let mut inner = self.lock();
        match inner.machines.get(&machine) {
            Some(None) => return Err(WorkerError::Unavailable { machine, reason: "it is being created" }),
            Some(Some(_)) => return Err(WorkerError::Conflict(format!("machine {machine} exists already"))),
            None => {}
        }
        if inner.promises.len() >= self.max_machines {
            return Err(WorkerError::NodeFull { resource: "machine slots" });
        }
        self.capacity.admit(guest, inner.promised(machine))?;
        let slot = inner.free_slot(self.slots).ok_or(WorkerError::NodeFull { resource: "network addresses" })?;
        inner.taken.insert(slot);
        inner.promises.insert(machine, Promise { memory_mb: u64::from(guest.memory_mb), slot });
        inner.machines.insert(machine, None);
        Ok(slot)
    }

    /// Holds a recorded machine's promise, whatever the limits are now.
    pub fn restore(&self, machine: MachineId, guest: &Guest, slot: u32) {
        let mut inner = self.lock();
        inner.taken.insert(slot);
        inner.promises.insert(machine, Promise { memory_mb: u64::from(guest.memory_mb), slot });
    }

    /// Changes a machine's promise for an update; gives the old one, to go back to.
    pub fn resize(&self, machine: MachineId, guest: &Guest) -> Result<u64, WorkerError> {
        let mut inner = self.lock();
        let others = inner.promised(machine);
        let Some(current) = inner.promises.get(&machine).copied() else {
            return Err(WorkerError::NotFound { machine });
        };
        let memory_mb = u64::from(guest.memory_mb);
        // A machine that does not grow is never refused, even on a node that has become smaller.
        if memory_mb > current.memory_mb {
            self.capacity.admit(guest, others)?;
        }
        inner.promises.insert(machine, Promise { memory_mb, ..current });
        Ok(current.memory_mb)
    }

    pub fn resize_back(&self, machine: MachineId, memory_mb: u64) {
        if let Some(promise) = self.lock().promises.get_mut(&machine) {
            promise.memory_mb = memory_mb;
        }
    }

    pub fn insert(&self, handle: Handle) {
        self.lock().machines.insert(handle.id, Some(handle));
        self.pins_changed();
    }

    /// A creation that could not be recorded.
    pub fn abandon(&self, machine: MachineId) {
        self.release(machine);
        self.lock().machines.remove(&machine);
    }

    /// The machine is destroyed; it can still be read.
    pub fn release(&self, machine: MachineId) {
        {
            let mut inner = self.lock();
            if let Some(promise) = inner.promises.remove(&machine) {
                inner.taken.remove(&promise.slot);
            }
        }
        self.pins_changed();
    }

    /// The machine's tombstone is gone.
    pub fn forget(&self, machine: MachineId) {
        self.lock().machines.remove(&machine);
    }

    /// Lets every task end: their queues close.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.machines.clear();
        inner.closed = true;
        self.pins.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub fn promised_mb(&self) -> u64 {
        self.lock().promises.values().map(|promise| promise.memory_mb).sum()
    }

    pub fn live_machines(&self) -> usize {
        self.lock().promises.len()
    }

    pub fn pins_changed(&self) {
        self.pins.notify_one();
    }

    pub async fn pins_changing(&self) {
        self.pins.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is a single insertion or removal, so the maps are whole after any panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn promised(&self, except: MachineId) -> u64 {
        self.promises.iter().filter(|(machine, _)| **machine != except).map(|(_, promise)| promise.memory_mb).sum()
    }

    fn free_slot(&self, slots: u32) -> Option<u32> {
        (0..slots).find(|slot| !self.taken.contains(slot))
    }
}
