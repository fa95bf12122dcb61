//! Tells the worker how loaded this node's machines are, when that changed, and not too often.

use std::collections::HashMap;
use std::sync::Arc;

use atoll_model::MachineId;

use crate::core::Edge;
use crate::surroundings::MachineLoad;

/// Runs until the edge drains: from then on it sees only what is left.
pub(crate) async fn run(edge: Arc<Edge>) {
    edge.shutdown.drain.run_until_cancelled(report(&edge)).await;
}

async fn report(edge: &Edge) {
    // What an edge before this one reported last may be anything.
    edge.surroundings.worker.report_load(Vec::new());
    let mut last: HashMap<MachineId, Vec<u32>> = HashMap::new();
    loop {
        edge.machines.signals.load_changed.notified().await;
        // Many changes become one report.
        tokio::time::sleep(edge.config.timeouts.load_report).await;
        let now: HashMap<_, _> = edge.machines.all().iter().map(|(id, machine)| (*id, machine.loads())).collect();
        if now == last {
            continue;
        }
        let mut loads: Vec<_> =
            now.iter().map(|(machine, loads)| MachineLoad { machine: *machine, loads: loads.clone() }).collect();
        loads.sort_by_key(|load| load.machine);
        edge.surroundings.worker.report_load(loads);
        last = now;
    }
}
