//! Leases, waiting, metadata, commands, logs, cordon, capacity.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use atoll_driver::ExecOutput;
use atoll_model::MachineState::{self, Destroyed, Started, Stopped};

use super::{LIMIT, Stage, id, version};
use atoll_worker::{
    Acquire, Caller, ExecCommand, LeaseAsk, LogQuery, SetMetadata, StopOptions, UpdateMachine, WaitFor, WorkerError,
};

fn stranger() -> Caller {
    Caller::default()
}

async fn destroy(stage: &Stage, number: u64) {
    stage.agent.destroy(id(number), true, &stranger()).await.unwrap();
    stage.reach(number, Destroyed).await;
}

pub async fn a_lease_keeps_others_from_changing_the_machine(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.sleep, json!({}))).await;
    stage.reach(1, Started).await;
    assert!(matches!(stage.agent.lease(id(1), LeaseAsk::Get).await, Err(WorkerError::NoLease)));
    let acquire = Acquire { owner: "a@example.org".into(), ttl_seconds: 120, ..Acquire::default() };
    let lease = stage.agent.lease(id(1), LeaseAsk::Acquire(acquire)).await.unwrap();
    let holder = Caller { lease_nonce: lease.nonce.clone(), ..Caller::default() };

    let refused = stage.agent.stop(id(1), StopOptions::default(), &stranger()).await.unwrap_err();
    assert!(matches!(refused, WorkerError::Conflict(_)));
    assert!(refused.to_string().contains("lease currently held by a@example.org, expires at"), "{refused}");
    let mut second = stage.bundle(1, stage.programs.sleep, json!({}));
    second.version = version(2);
    assert!(matches!(stage.update(second.clone()).await, Err(WorkerError::Conflict(_))));
    for change in [
        stage.agent.start(id(1), &stranger()).await,
        stage.agent.suspend(id(1), &stranger()).await,
        stage.agent.restart(id(1), StopOptions::default(), false, &stranger()).await,
        stage.agent.destroy(id(1), true, &stranger()).await,
        stage.agent.cordon(id(1), true, &stranger()).await,
    ] {
        assert!(matches!(change, Err(WorkerError::Conflict(_))), "{change:?}");
    }
    // Metadata, commands and waiting need no lease.
    let change =
        SetMetadata { entries: BTreeMap::from([("a".into(), "1".into())]), replace_all: false, expected_version: None };
    stage.agent.set_metadata(id(1), change).await.unwrap();
    stage.reach(1, Started).await;

    let update = UpdateMachine { bundle: second, expected_version: Some(version(9)), lease_nonce: lease.nonce.clone() };
    assert!(matches!(stage.agent.update(update.clone(), "user").await, Err(WorkerError::Conflict(_))));
    stage.agent.update(UpdateMachine { expected_version: Some(version(1)), ..update }, "user").await.unwrap();
    stage.until(1, "the update", |view| view.state == Started && view.version == version(2)).await;
    stage.agent.stop(id(1), StopOptions::default(), &holder).await.unwrap();
    stage.reach(1, Stopped).await;
    stage.agent.lease(id(1), LeaseAsk::Release { nonce: lease.nonce }).await.unwrap();
    destroy(stage, 1).await;
}

pub async fn waiting_is_level_triggered_and_knows_versions(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.sleep, json!({}))).await;
    stage.reach(1, Started).await;
    let wait = |states: Vec<MachineState>, timeout_ms| WaitFor {
        states,
        settled: false,
        version: None,
        from_event: None,
        timeout: Duration::from_millis(timeout_ms),
    };
    let waited = stage.agent.wait(id(1), wait(vec![Stopped, Started], 1)).await.unwrap();
    assert_eq!((waited.state, waited.version), (Started, version(1)));
    let missed = stage.agent.wait(id(1), wait(vec![Stopped], 20)).await.unwrap_err();
    assert_eq!(missed.to_string(), "machine failed to reach desired state, stopped, currently started");
    let settled = WaitFor { settled: true, ..wait(vec![], 1) };
    assert_eq!(stage.agent.wait(id(1), settled).await.unwrap().state, Started);

    // A second start is only what comes after the first one's event.
    let newest = stage.agent.get(id(1)).unwrap().events[0].id;
    let again = WaitFor { from_event: Some(newest), timeout: LIMIT, ..wait(vec![Started], 0) };
    let early = WaitFor { timeout: Duration::from_millis(20), ..again.clone() };
    assert!(matches!(stage.agent.wait(id(1), early).await, Err(WorkerError::TimedOut(_))));
    stage.agent.restart(id(1), StopOptions::default(), false, &stranger()).await.unwrap();
    assert!(stage.agent.wait(id(1), again).await.unwrap().event.unwrap() > newest);

    let mut second = stage.bundle(1, stage.programs.sleep, json!({}));
    second.version = version(2);
    let expected = WaitFor { version: Some(version(2)), timeout: LIMIT, ..wait(vec![Started], 0) };
    let (updated, waited) = tokio::join!(stage.update(second), stage.agent.wait(id(1), expected));
    updated.unwrap();
    assert_eq!(waited.unwrap().version, version(2));
    let old = WaitFor { version: Some(version(1)), ..wait(vec![Started], 1000) };
    let replaced = stage.agent.wait(id(1), old).await.unwrap_err().to_string();
    assert!(replaced.ends_with("currently replaced"), "{replaced}");
    assert!(matches!(stage.agent.wait(id(99), wait(vec![Started], 1)).await, Err(WorkerError::NotFound { .. })));
    destroy(stage, 1).await;
}

pub async fn metadata_changes_without_a_new_version(stage: &Stage) {
    let extra = json!({ "metadata": { "a": "1", "b": "2" } });
    stage.create(stage.bundle(1, stage.programs.sleep, extra)).await;
    let before = stage.reach(1, Started).await;
    let change = |entries: &[(&str, &str)], replace_all, expected_version| SetMetadata {
        entries: entries.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        replace_all,
        expected_version,
    };
    let view = stage.agent.set_metadata(id(1), change(&[("a", ""), ("c", "3")], false, None)).await.unwrap();
    assert_eq!(json!(view.config.metadata), json!({ "b": "2", "c": "3" }));
    let stale = stage.agent.set_metadata(id(1), change(&[], false, Some(version(5)))).await;
    assert!(matches!(stale, Err(WorkerError::Precondition(_))));
    let view = stage.agent.set_metadata(id(1), change(&[("d", "4")], true, Some(version(1)))).await.unwrap();
    assert_eq!(json!(view.config.metadata), json!({ "d": "4" }));
    assert_eq!((view.version, view.boot_id), (before.version, before.boot_id));
    destroy(stage, 1).await;
}

pub async fn a_command_runs_beside_the_main_process(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.sleep, json!({}))).await;
    stage.reach(1, Started).await;
    let command = stage.programs.print_key.iter().map(|word| (*word).to_owned()).collect();
    let command = ExecCommand { command, env: BTreeMap::new(), terminal: None };
    let mut streams = stage.agent.exec(id(1), command.clone()).await.unwrap();
    let mut text = Vec::new();
    let mut code = None;
    while let Some(output) = streams.output.recv().await {
        match output {
            ExecOutput::Stdout(bytes) => text.extend(bytes),
            ExecOutput::Stderr(_) => {}
            ExecOutput::Exit { code: ended, .. } => code = Some(ended),
        }
    }
    assert!(String::from_utf8_lossy(&text).contains("swordfish"), "secrets are missing: {text:?}");
    assert_eq!(code, Some(7));
    assert!(!stage.agent.processes(id(1)).await.unwrap().is_empty());
    stage.agent.stop(id(1), StopOptions::default(), &stranger()).await.unwrap();
    stage.reach(1, Stopped).await;
    assert!(matches!(stage.agent.exec(id(1), command).await, Err(WorkerError::Precondition(_))));
    destroy(stage, 1).await;
}

pub async fn a_suspended_machine_goes_on_where_it_was(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.serve, stage.service())).await;
    let first = stage.reach(1, Started).await;
    stage.agent.suspend(id(1), &stranger()).await.unwrap();
    let view = stage.reach(1, MachineState::Suspended).await;
    assert_eq!(view.boot_id, first.boot_id);
    assert!(stage.agent.wake(id(1), 8080, LIMIT).await.unwrap());
    assert_eq!(stage.reach(1, Started).await.boot_id, first.boot_id);
    // A frozen machine can be stopped.
    stage.agent.suspend(id(1), &stranger()).await.unwrap();
    stage.reach(1, MachineState::Suspended).await;
    stage.agent.stop(id(1), StopOptions::default(), &stranger()).await.unwrap();
    stage.reach(1, Stopped).await;
    destroy(stage, 1).await;
}

pub async fn an_idle_machine_is_stopped_unless_it_has_changed(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.sleep, json!({}))).await;
    stage.reach(1, Started).await;
    assert!(matches!(stage.agent.idle(id(1), version(2), false).await, Err(WorkerError::Precondition(_))));
    stage.agent.idle(id(1), version(1), false).await.unwrap();
    let view = stage.reach(1, Stopped).await;
    assert!(view.events.iter().any(|event| event.event_type == "stop" && event.source == "flyd"));
    destroy(stage, 1).await;
}

pub async fn logs_tell_what_the_node_did(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.sleep, json!({}))).await;
    stage.reach(1, Started).await;
    let query = LogQuery { machine: Some(id(1)), follow: true, ..LogQuery::default() };
    let mut lines = stage.agent.logs(query);
    let next = |line: Option<Result<atoll_worker::LogEntry, WorkerError>>| line.unwrap().unwrap();
    loop {
        let line = next(tokio::time::timeout(LIMIT, lines.recv()).await.unwrap());
        if line.stream == "atoll" {
            assert_eq!(line.text, "Machine started");
            break;
        }
    }
    stage.agent.stop(id(1), StopOptions::default(), &stranger()).await.unwrap();
    loop {
        let line = next(tokio::time::timeout(LIMIT, lines.recv()).await.unwrap());
        if line.stream == "atoll" && line.text.starts_with("Machine ") {
            break;
        }
    }
    stage.reach(1, Stopped).await;
    destroy(stage, 1).await;
}

pub async fn a_machine_that_does_not_fit_is_refused(stage: &Stage) {
    let huge = json!({ "guest": { "cpu_kind": "performance", "cpus": 16, "memory_mb": 131072 } });
    let refused = stage.try_create(stage.bundle(1, stage.programs.sleep, huge)).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "could not reserve resource for machine: insufficient memory available to fulfill request"
    );
    let wrong = json!({ "guest": { "cpu_kind": "shared", "cpus": 3, "memory_mb": 1024 } });
    let invalid = stage.try_create(stage.bundle(1, stage.programs.sleep, wrong)).await.unwrap_err();
    assert!(matches!(invalid, WorkerError::Invalid(_)), "{invalid}");
    assert!(stage.agent.list(None).is_empty());
    assert_eq!(stage.agent.node().memory_promised_mb, 0);
}
