//! What routing is told, and what an agent does when it cannot record.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use atoll_model::row::MachineRow;
use atoll_model::service::{CheckStatus, LoadBucket};
use atoll_model::{MachineState, Row, RowKey};

use super::{PROGRAMS, stage};
use crate::fake::World;
use crate::suite::{LIMIT, id};
use crate::{Caller, StopOptions, Usage, Worker, WorkerError};

fn row(world: &World, number: u64) -> Option<MachineRow> {
    match world.rows.lock().unwrap().get(&RowKey::Machine(id(number))) {
        Some(Row::Machine(row)) => Some(row.clone()),
        _ => None,
    }
}

async fn row_until(world: &World, what: &str, condition: impl Fn(&MachineRow) -> bool) -> MachineRow {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let found = row(world, 1);
        if let Some(row) = found.clone().filter(|row| condition(row)) {
            return row;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} was not published: {found:#?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_machine_is_routable_when_its_checks_pass() {
    let world = World::new();
    let stage = stage(&world).await;
    let mut extra = stage.service();
    extra["services"][0]["checks"] = json!([{ "type": "http", "path": "/" }]);
    extra["services"][0]["concurrency"] = json!({ "soft_limit": 2, "hard_limit": 4 });
    stage.create(stage.bundle(1, PROGRAMS.serve, extra)).await;
    let ready = row_until(&world, "readiness", |row| row.services[0].healthy).await;
    assert_eq!((ready.state, ready.services[0].load), (MachineState::Started, LoadBucket::BelowSoft));
    let checks = stage.agent.get(id(1)).unwrap().checks;
    assert_eq!((checks[0].name.as_str(), checks[0].status), ("servicecheck-00-http-8080", CheckStatus::Passing));

    stage.agent.report_usage(vec![(id(1), Usage { loads: vec![3], closed: false })]);
    row_until(&world, "load", |row| row.services[0].load == LoadBucket::BelowHard).await;
    stage.agent.report_usage(Vec::new());
    row_until(&world, "no load", |row| row.services[0].load == LoadBucket::BelowSoft).await;
    stage.agent.cordon(id(1), true, &Caller::default()).await.unwrap();
    assert!(row(&world, 1).unwrap().cordoned);
    stage.agent.stop(id(1), StopOptions::default(), &Caller::default()).await.unwrap();
    let stopped = row_until(&world, "the stop", |row| row.state == MachineState::Stopped).await;
    assert!(!stopped.services[0].healthy);
    stage.agent.destroy(id(1), false, &Caller::default()).await.unwrap();
    stage.reach(1, MachineState::Destroyed).await;
    assert!(row(&world, 1).is_none());
}

#[tokio::test]
async fn a_machine_has_drained_when_its_edge_has_closed_it_and_nobody_is_inside() {
    let world = World::new();
    let stage = stage(&world).await;
    stage.create(stage.bundle(1, PROGRAMS.serve, stage.service())).await;
    stage.reach(1, MachineState::Started).await;
    let report = |load, closed| stage.agent.report_usage(vec![(id(1), Usage { loads: vec![load], closed })]);
    stage.agent.cordon(id(1), true, &Caller::default()).await.unwrap();
    report(1, true);
    row_until(&world, "somebody inside", |row| row.cordoned).await;
    assert!(!stage.agent.get(id(1)).unwrap().drained, "one is inside");
    report(0, true);
    stage.until(1, "the last one gone", |view| view.drained).await;
    // What was said of this cordon does not count for the next.
    stage.agent.cordon(id(1), false, &Caller::default()).await.unwrap();
    assert!(!stage.agent.get(id(1)).unwrap().drained);
    stage.agent.cordon(id(1), true, &Caller::default()).await.unwrap();
    assert!(!stage.agent.get(id(1)).unwrap().drained, "the edge did not say yet that it closed it again");
}

#[tokio::test]
async fn a_failing_check_keeps_a_machine_out_of_the_routing() {
    let world = World::new();
    let stage = stage(&world).await;
    let mut extra = stage.service();
    extra["services"][0]["checks"] = json!([{ "type": "http", "grace_period": "150ms" }]);
    stage.create(stage.bundle(1, &["fail", "8080"], extra)).await;
    stage
        .until(1, "an excused failure", |view| {
            view.checks
                .first()
                .is_some_and(|check| check.status == CheckStatus::Warning && check.output.starts_with("500"))
        })
        .await;
    stage
        .until(1, "a failure", |view| view.checks.first().is_some_and(|check| check.status == CheckStatus::Critical))
        .await;
    assert!(!row(&world, 1).unwrap().services[0].healthy);
}

#[tokio::test]
async fn a_machine_without_its_image_fails_and_says_so() {
    let world = World::new();
    let stage = stage(&world).await;
    world.missing_images.lock().unwrap().push(super::IMAGE.into());
    stage.create(stage.bundle(1, PROGRAMS.sleep, json!({}))).await;
    let view = stage.reach(1, MachineState::Failed).await;
    assert!(view.events[0].request.as_ref().unwrap()["error"].as_str().unwrap().contains("is nowhere"));
    // A machine that failed can be started when the reason is gone.
    world.missing_images.lock().unwrap().clear();
    stage.agent.start(id(1), &Caller::default()).await.unwrap();
    stage.reach(1, MachineState::Started).await;
    assert_eq!(*world.pinned.lock().unwrap(), [super::IMAGE]);
}

#[tokio::test]
async fn a_full_disk_refuses_what_it_cannot_record() {
    let world = World::new();
    let mut config = world.config();
    config.knobs.store_max_bytes = 256 * 1024;
    let agent = Worker::start(config, world.deps(Arc::new(crate::seams::NoHook))).await.unwrap();
    let stage = crate::suite::Stage { agent, programs: PROGRAMS, image: super::IMAGE.into() };
    let ballast = json!({ "env": { "BALLAST": "x".repeat(100_000) } });
    let mut refused = None;
    for number in 1..10 {
        let mut bundle = stage.bundle(number, PROGRAMS.sleep, ballast.clone());
        bundle.skip_launch = true;
        if let Err(error) = stage.try_create(bundle).await {
            refused = Some((number, error));
            break;
        }
        stage.reach(number, MachineState::Stopped).await;
    }
    let (number, error) = refused.expect("the disk was never full");
    assert!(matches!(error, WorkerError::NotRecorded { .. }));
    assert!(
        atoll_signals::with_causes(&error).contains("the node's disk is full"),
        "{}",
        atoll_signals::with_causes(&error)
    );
    assert!(matches!(stage.agent.get(id(number)), Err(WorkerError::NotFound { .. })));
    assert_eq!(stage.agent.list(None).len(), number as usize - 1);
    assert!(row(&world, number).is_none());
}
