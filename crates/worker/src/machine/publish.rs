//! What a machine's task lets others see: the snapshot that callers of this node read, and the
//! catalogue row.

use std::sync::Arc;

use atoll_model::Row;
use atoll_rpc::contract::MachineView;

use super::Snapshot;
use super::step::Phase;
use super::task::Task;
use crate::row::{self, Now, machine_row};

impl Task {
    /// Lets everybody see the present state; says nothing that was said before.
    pub(super) fn publish(&mut self) {
        let view = self.view();
        let snapshot = Snapshot {
            view,
            phase: self.state.phase,
            health: self.health.clone(),
            last_failure: self.last_failure.clone(),
            failures: self.failures,
        };
        self.snapshot.send_replace(Arc::new(snapshot));
        self.publish_row();
    }

    /// The catalogue's part alone: load changes often and nobody reads it here.
    pub(super) fn publish_row(&mut self) {
        if self.state.phase == Phase::Removed {
            return;
        }
        let context = &self.context;
        let now = Now {
            state: self.state.phase.state(),
            cordoned: self.state.cordoned,
            health: &self.health,
            loads: &self.usage.loads,
            changed_at_ms: self.state.changed_at_ms,
        };
        let ipv4 = context.deps.networks.ipv4(self.state.slot);
        let row = machine_row(&self.sealed.bundle, &context.config.node, ipv4, &now);
        if self.published.as_ref() != Some(&row) {
            context.deps.rows.put(Row::Machine(row.clone()));
            self.published = Some(row);
        }
    }

    /// The edge's word counts only while the machine is cordoned: it may be of the time before.
    fn is_drained(&self) -> bool {
        self.state.cordoned && self.usage.closed && self.usage.loads.iter().all(|load| *load == 0)
    }

    pub(super) fn view(&self) -> MachineView {
        let up = self.state.phase.may_have_processes();
        MachineView {
            events: self.events.iter().rev().cloned().collect(),
            checks: self.health.results(),
            lease: crate::lease::live(self.state.lease.as_ref(), self.context.now_ms()).cloned(),
            boot_id: self.state.boot_id.clone().filter(|_| up),
            pid: self.running.as_ref().map(|running| running.pid()),
            earlier_versions: self.versions.clone(),
            cordoned: self.state.cordoned,
            drained: self.is_drained(),
            updated_at_ms: self.state.updated_at_ms,
            ..row::plain_view(&self.sealed.bundle, &self.context.config.node, self.state.phase.state())
        }
    }
}
