//! Tells the worker how this node's machines are used: their load when that changed, and not too
//! often; at once whose door was closed, and who has left behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_catalogue::Snapshot;
use atoll_model::MachineId;
use tokio::sync::watch;

use super::machine::Machine;
use crate::core::Edge;
use crate::surroundings::MachineLoad;

/// Use of machines, by id.
type Usage = BTreeMap<MachineId, (Vec<u32>, bool)>;

/// Runs until the edge drains: from then on it sees only what is left.
pub(crate) async fn run(edge: Arc<Edge>) {
    edge.shutdown.drain.run_until_cancelled(report(&edge)).await;
}

async fn report(edge: &Edge) {
    // What an edge before this one reported last may be anything.
    edge.surroundings.worker.report_load(Vec::new());
    let mut changes = edge.surroundings.routes.changes();
    let mut last = Usage::new();
    loop {
        tokio::select! {
            () = edge.machines.signals.load_changed.notified() => {}
            // A closed channel means that the edge's surroundings are gone: loads alone count then.
            Ok(()) = changes.changed() => {}
        }
        let mut now = usage(edge);
        if closed(&now).eq(closed(&last)) {
            // Nobody waits for it: many changes become one report.
            let due = tokio::time::sleep(edge.config.timeouts.load_report);
            tokio::select! {
                () = due => {}
                () = door_moves(edge, &mut changes, &last) => {}
            }
            now = usage(edge);
        }
        if now == last {
            continue;
        }
        let loads = now.iter().map(|(machine, (loads, closed))| MachineLoad {
            machine: *machine,
            loads: loads.clone(),
            closed: *closed,
        });
        edge.surroundings.worker.report_load(loads.collect());
        last = now;
    }
}

/// Returns when a door has been opened or closed since `last`; doors follow their rows meanwhile.
async fn door_moves(edge: &Edge, changes: &mut watch::Receiver<u64>, last: &Usage) {
    while changes.changed().await.is_ok() {
        if !closed(&usage_of_known(edge, &edge.surroundings.routes.snapshot())).eq(closed(last)) {
            return;
        }
    }
    // Without news no door moves.
    std::future::pending().await
}

/// Looks at every machine of this node that has been used or is cordoned, and closes the doors of
/// the cordoned ones.
fn usage(edge: &Edge) -> Usage {
    let snapshot = edge.surroundings.routes.snapshot();
    // The door of a machine that nobody used yet must be closed as well.
    for row in snapshot.machines().filter(|row| row.cordoned && row.node == edge.config.node) {
        edge.machines.enter(row);
    }
    usage_of_known(edge, &snapshot)
}

/// The same without those that nobody used yet: the catalogue is large, this node's part of it is not.
fn usage_of_known(edge: &Edge, snapshot: &Snapshot) -> Usage {
    let machines = edge.machines.all();
    let look = |(id, machine): (&MachineId, &Arc<Machine>)| {
        let cordoned = snapshot.machine(id).is_some_and(|row| row.cordoned);
        (*id, (machine.close(cordoned), cordoned))
    };
    machines.iter().map(look).collect()
}

fn closed(usage: &Usage) -> impl Iterator<Item = (&MachineId, &Vec<u32>)> {
    usage.iter().filter(|(_, (_, closed))| *closed).map(|(machine, (loads, _))| (machine, loads))
}
