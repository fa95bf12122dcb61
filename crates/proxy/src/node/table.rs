//! All machines of this node that this edge has had to do with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use atoll_model::MachineId;
use atoll_model::row::MachineRow;
use atoll_model::service::LoadBucket;

use super::machine::{Machine, Signals};
use crate::select::OwnMachines;

type Table = HashMap<MachineId, Arc<Machine>>;

/// Read without a lock on every request; written when a machine or a version is met first.
pub(crate) struct Machines {
    table: ArcSwap<Table>,
    writing: Mutex<()>,
    pub signals: Arc<Signals>,
}

impl Machines {
    pub fn new() -> Self {
        Self { table: ArcSwap::default(), writing: Mutex::new(()), signals: Signals::new() }
    }

    /// The machine of this very version. Requests that still run in an older version keep its entry
    /// alive by themselves.
    pub fn enter(&self, row: &MachineRow) -> Arc<Machine> {
        if let Some(machine) = self.known(row) {
            return machine;
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(machine) = self.known(row) {
            return machine;
        }
        let machine = Machine::new(row, self.signals.clone(), Instant::now());
        let mut table = Table::clone(&self.table.load());
        table.insert(row.id, machine.clone());
        self.table.store(Arc::new(table));
        machine
    }

    fn known(&self, row: &MachineRow) -> Option<Arc<Machine>> {
        self.table.load().get(&row.id).filter(|machine| machine.version == row.version).cloned()
    }

    /// Drops the entries of machines that are no longer `kept`.
    pub fn retain(&self, kept: impl Fn(&MachineId) -> bool) {
        if self.table.load().keys().all(&kept) {
            return;
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.table.load());
        table.retain(|id, _| kept(id));
        self.table.store(Arc::new(table));
    }

    pub fn all(&self) -> Arc<Table> {
        self.table.load_full()
    }
}

/// The table as selection sees it at one moment.
pub(crate) struct OwnView<'a> {
    machines: &'a Machines,
    now: Instant,
}

impl<'a> OwnView<'a> {
    pub fn new(machines: &'a Machines, now: Instant) -> Self {
        Self { machines, now }
    }
}

impl OwnMachines for OwnView<'_> {
    fn running(&self, row: &MachineRow) -> Option<bool> {
        self.machines.known(row)?.running(row, self.now)
    }

    fn bucket(&self, row: &MachineRow, service: usize) -> Option<LoadBucket> {
        self.machines.known(row)?.bucket(row, service)
    }
}
