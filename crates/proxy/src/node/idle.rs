//! Stops machines of this node that nobody uses. Which ones is the judge's decision; here the facts
//! are gathered and the gate is kept: a machine being stopped lets nobody in, and who waits at the
//! gate meanwhile wakes it again.

use std::sync::Arc;
use std::time::Instant;

use atoll_model::MachineState;
use atoll_model::row::MachineRow;
use atoll_model::service::Autostop;

use crate::core::Edge;
use crate::surroundings::{IdleMachine, IdleVerdict};

/// Looks once in every check interval, until the edge ends.
pub(crate) async fn run(edge: Arc<Edge>) {
    let mut ticks = tokio::time::interval(edge.config.timeouts.idle_check);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        check(&edge);
    }
}

fn check(edge: &Arc<Edge>) {
    let snapshot = edge.surroundings.routes.snapshot();
    let now = Instant::now();
    edge.machines.retain(|id| snapshot.machine(id).is_some_and(|row| row.node == edge.config.node));
    let candidates: Vec<IdleMachine> = snapshot
        .machines()
        .filter(|row| row.node == edge.config.node && may_idle(row))
        .map(|row| {
            let (open, idle_for) = edge.machines.enter(row).idleness(row, now);
            IdleMachine {
                machine: row.id,
                app: row.app.clone(),
                region: row.region,
                version: row.version,
                open,
                idle_for,
            }
        })
        .collect();
    if candidates.is_empty() {
        return;
    }
    for verdict in edge.surroundings.idle.judge(&snapshot, &candidates) {
        if let Some(row) = snapshot.machine(&verdict.machine) {
            stop(edge, row.clone(), verdict);
        }
    }
}

fn may_idle(row: &MachineRow) -> bool {
    row.state == MachineState::Started && row.services.iter().any(|service| service.service.autostop() != Autostop::Off)
}

fn stop(edge: &Arc<Edge>, row: Arc<MachineRow>, verdict: IdleVerdict) {
    let machine = edge.machines.enter(&row);
    // A row that still says "started" after we stopped it is no reason to stop it again.
    if machine.running(&row, Instant::now()) == Some(false) || !machine.begin_stop() {
        return;
    }
    let edge = edge.clone();
    tokio::spawn(async move {
        let call = edge.surroundings.worker.idle(row.id, row.version, verdict.suspend);
        let stopped = match tokio::time::timeout(edge.config.timeouts.idle_stop, call).await {
            Ok(Ok(())) => {
                edge.counters.idle_stops.one();
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(machine = %row.id, app = %row.app, %error, "an idle machine was not stopped");
                false
            }
            Err(_) => {
                tracing::warn!(machine = %row.id, app = %row.app, "stopping an idle machine took too long");
                // It may stop yet: the next request has to ask.
                true
            }
        };
        machine.end_stop(&row, stopped, Instant::now());
    });
}
