//! Stops machines of this node that nobody uses. Which ones is decided by the rollout rules; here the
//! facts are gathered and the gate is kept: a machine being stopped lets nobody in, and who waits at
//! the gate meanwhile wakes it again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use atoll_catalogue::Snapshot;
use atoll_model::row::MachineRow;
use atoll_model::service::Autostop;
use atoll_model::{AppName, MachineId, MachineState};
use atoll_rollout::autostop::{Activity, Candidate, Rest, judge};

use crate::core::Edge;

/// Looks once in every check interval. An edge that drains sees less and less of its machines' traffic,
/// so it judges no more.
pub(crate) async fn run(edge: Arc<Edge>) {
    let checking = async {
        let mut ticks = tokio::time::interval(edge.config.timeouts.idle_check);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            check(&edge);
        }
    };
    edge.shutdown.drain.run_until_cancelled(checking).await;
}

fn check(edge: &Arc<Edge>) {
    let snapshot = edge.surroundings.routes.snapshot();
    let here = &edge.config.node;
    edge.machines.retain(|id| snapshot.machine(id).is_some_and(|row| row.node == *here));
    let now = Instant::now();
    let unix_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis);
    for app in apps_to_judge(&snapshot, edge) {
        let own_activity = |row: &MachineRow| match row.node == *here {
            true => Some(edge.machines.enter(row).idleness(row, now)),
            false => None,
        };
        for (id, rest) in judge_app(&snapshot, &app, edge, own_activity, unix_ms) {
            match snapshot.machine(&id) {
                Some(row) if row.node == *here => stop(edge, row.clone(), rest),
                // Its own node judges it.
                _ => {}
            }
        }
    }
}

/// Apps with a machine on this node that may be stopped for idleness.
fn apps_to_judge(snapshot: &Snapshot, edge: &Edge) -> BTreeSet<AppName> {
    let may_idle = |row: &MachineRow| {
        row.node == edge.config.node
            && row.state == MachineState::Started
            && row.services.iter().any(|service| service.service.autostop() != Autostop::Off)
    };
    snapshot.machines().filter(|row| may_idle(row)).map(|row| row.app.clone()).collect()
}

/// Judges all machines of an app in this region: what runs on other nodes counts for the minimum.
fn judge_app(
    snapshot: &Snapshot,
    app: &AppName,
    edge: &Edge,
    own_activity: impl Fn(&MachineRow) -> Option<(u32, Duration)>,
    unix_ms: u64,
) -> Vec<(MachineId, Rest)> {
    let region = edge.config.region;
    let machines: Vec<Candidate> = snapshot
        .machines_of(app)
        .iter()
        .filter(|row| row.region == region)
        .map(|row| candidate(row, own_activity(row), unix_ms))
        .collect();
    judge(&machines, region, snapshot.app(app).and_then(|app| app.primary_region), unix_ms)
}

/// `activity`: open requests and for how long there have been none; `None` when another node knows.
fn candidate(row: &MachineRow, activity: Option<(u32, Duration)>, unix_ms: u64) -> Candidate {
    let (open, idle_for) = activity.unwrap_or_default();
    let idle_since_ms = unix_ms.saturating_sub(millis(idle_for));
    let services = row.services.iter().map(|row| Activity {
        autostop: row.service.autostop(),
        idle_timeout: row.service.idle_timeout().0,
        min_machines_running: row.service.min_machines_running.unwrap_or(0),
        open: u64::from(open),
        last_activity_ms: idle_since_ms,
    });
    Candidate {
        id: row.id,
        group: row.process_group.clone(),
        state: row.state,
        cordoned: row.cordoned,
        started_at_ms: idle_since_ms,
        services: services.collect(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn stop(edge: &Arc<Edge>, row: Arc<MachineRow>, rest: Rest) {
    let machine = edge.machines.enter(&row);
    // A row that still says "started" after we stopped it is no reason to stop it again.
    if machine.running(&row, Instant::now()) == Some(false) || !machine.begin_stop() {
        return;
    }
    let edge = edge.clone();
    tokio::spawn(async move {
        let call = edge.surroundings.worker.idle(row.id, row.version, rest == Rest::Suspend);
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
