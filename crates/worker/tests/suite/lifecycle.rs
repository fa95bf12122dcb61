//! Create, start, stop, restart, update, destroy.

use std::time::{Duration, Instant};

use serde_json::json;

use atoll_model::MachineState::{self, Created, Destroyed, Failed, Started, Stopped};

use super::{LIMIT, Stage, history, id, version};
use atoll_worker::Caller;
use atoll_worker::{StopOptions, WorkerError};

fn user() -> Caller {
    Caller::default()
}

pub async fn a_machine_lives_and_dies(stage: &Stage) {
    let view = stage.create(stage.bundle(1, stage.programs.sleep, json!({}))).await;
    assert_eq!(view.state, Created);
    let view = stage.reach(1, Started).await;
    assert!(view.boot_id.is_some() && view.pid.is_some());

    assert_eq!(stage.agent.stop(id(1), StopOptions::default(), &user()).await.unwrap(), Started);
    let view = stage.reach(1, Stopped).await;
    assert!(view.boot_id.is_none() && view.pid.is_none());
    let exit = view.events.iter().find(|event| event.event_type == "exit").unwrap();
    let request = exit.request.as_ref().unwrap();
    assert_eq!(request["exit_event"]["requested_stop"], true);

    assert_eq!(stage.agent.start(id(1), &user()).await.unwrap(), Stopped);
    stage.reach(1, Started).await;
    let refused = stage.agent.destroy(id(1), false, &user()).await.unwrap_err();
    assert_eq!(refused.to_string(), "unable to destroy machine, not currently stopped, suspended, failed or created");
    stage.agent.destroy(id(1), true, &user()).await.unwrap();
    let view = stage.reach(1, Destroyed).await;
    assert_eq!(
        history(&view),
        [
            "launch/created/user",
            "start/starting/flyd",
            "start/started/flyd",
            "stop/stopping/user",
            "exit/stopped/flyd",
            "start/starting/user",
            "start/started/flyd",
            "destroy/destroying/user",
            "exit/stopped/flyd",
            "destroy/destroyed/flyd",
        ]
    );
    // Destroying again is no error; anything else is refused.
    stage.agent.destroy(id(1), false, &user()).await.unwrap();
    assert!(matches!(stage.agent.start(id(1), &user()).await, Err(WorkerError::Precondition(_))));
}

pub async fn creating_twice_is_one_machine(stage: &Stage) {
    let bundle = stage.bundle(1, stage.programs.sleep, json!({}));
    stage.create(bundle.clone()).await;
    let again = stage.create(bundle.clone()).await;
    assert_eq!(again.version, version(1));
    let other = atoll_rpc::contract::LaunchBundle { version: version(2), ..bundle };
    assert!(matches!(stage.try_create(other).await, Err(WorkerError::Conflict(_))));
    stage.reach(1, Started).await;
    assert_eq!(stage.agent.list(None).len(), 1);
    stage.agent.destroy(id(1), true, &user()).await.unwrap();
    stage.reach(1, Destroyed).await;
}

pub async fn skip_launch_rests_stopped(stage: &Stage) {
    let mut bundle = stage.bundle(1, stage.programs.sleep, json!({}));
    bundle.skip_launch = true;
    stage.create(bundle).await;
    let view = stage.reach(1, Stopped).await;
    assert_eq!(history(&view), ["launch/created/user"]);
    stage.agent.destroy(id(1), false, &user()).await.unwrap();
    stage.reach(1, Destroyed).await;
}

pub async fn a_stubborn_process_is_killed_after_the_timeout(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.stubborn, json!({ "restart": { "policy": "always" } }))).await;
    stage.reach(1, Started).await;
    stage.printed(1, "ready").await;
    let options = StopOptions { signal: Some("SIGTERM".into()), timeout: Some(Duration::from_millis(300)) };
    let begun = Instant::now();
    stage.agent.stop(id(1), options, &user()).await.unwrap();
    let view = stage.reach(1, Stopped).await;
    assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < LIMIT);
    let exit = view.events.iter().find(|event| event.event_type == "exit").unwrap();
    assert_eq!(exit.request.as_ref().unwrap()["exit_event"]["exit_code"], 137);
    stage.agent.destroy(id(1), false, &user()).await.unwrap();
    stage.reach(1, Destroyed).await;
}

pub async fn the_restart_policy_gives_up_after_its_retries(stage: &Stage) {
    let restart = json!({ "restart": { "policy": "on-failure", "max_retries": 2 } });
    stage.create(stage.bundle(1, stage.programs.exit_3, restart)).await;
    let view = stage.reach(1, Stopped).await;
    let exits: Vec<_> = view.events.iter().rev().filter(|event| event.event_type == "exit").collect();
    let restarting: Vec<_> =
        exits.iter().map(|event| event.request.as_ref().unwrap()["exit_event"]["restarting"].clone()).collect();
    assert_eq!(restarting, [json!(true), json!(true), json!(false)]);
    assert_eq!(exits[2].request.as_ref().unwrap()["exit_event"]["exit_code"], 3);
    stage.agent.destroy(id(1), false, &user()).await.unwrap();
    stage.reach(1, Destroyed).await;
}

pub async fn auto_destroy_removes_a_finished_machine(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.exit_0, json!({ "auto_destroy": true }))).await;
    stage.reach(1, Destroyed).await;
}

pub async fn a_program_that_cannot_run_fails(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.nonsense, json!({}))).await;
    let view = stage.reach(1, Failed).await;
    let failed = &view.events[0];
    assert_eq!((failed.event_type.as_str(), failed.status.as_str()), ("launch", "failed"));
    assert!(failed.request.as_ref().unwrap()["error"].as_str().unwrap().contains("did not start"));
    stage.agent.destroy(id(1), false, &user()).await.unwrap();
    stage.reach(1, Destroyed).await;
}

pub async fn an_update_replaces_and_keeps_the_run_state(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.sleep, json!({}))).await;
    let first = stage.reach(1, Started).await;

    let mut second = stage.bundle(1, stage.programs.sleep, json!({ "env": { "A": "2" } }));
    second.version = version(2);
    assert_eq!(stage.update(second.clone()).await.unwrap().state, MachineState::Replacing);
    let view =
        stage.until(1, "the new version started", |view| view.state == Started && view.boot_id != first.boot_id).await;
    assert_eq!((view.version, view.config.env["A"].as_str()), (version(2), "2"));
    assert_eq!(view.earlier_versions[0].version, version(1));
    // Repeated after a lost reply: nothing more happens.
    stage.update(second).await.unwrap();
    assert_eq!(stage.agent.get(id(1)).unwrap().boot_id, view.boot_id);

    stage.agent.stop(id(1), StopOptions::default(), &user()).await.unwrap();
    stage.reach(1, Stopped).await;
    let mut third = stage.bundle(1, stage.programs.sleep, json!({}));
    third.version = version(3);
    stage.update(third).await.unwrap();
    stage.until(1, "the update came to rest", |view| view.state == Stopped).await;
    stage.agent.destroy(id(1), false, &user()).await.unwrap();
    stage.reach(1, Destroyed).await;
}

pub async fn a_wake_returns_when_the_port_accepts(stage: &Stage) {
    let mut bundle = stage.bundle(1, stage.programs.serve, stage.service());
    bundle.skip_launch = true;
    stage.create(bundle).await;
    stage.reach(1, Stopped).await;
    let wakes = (0..20).map(|_| stage.agent.wake(id(1), 8080, LIMIT));
    let results = futures_util::future::join_all(wakes).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let view = stage.reach(1, Started).await;
    assert_eq!(history(&view).iter().filter(|event| event.starts_with("start/starting")).count(), 1);
    assert!(!stage.agent.wake(id(1), 8080, LIMIT).await.unwrap());
    // One that is stopping is awaited, then started.
    stage.agent.stop(id(1), StopOptions::default(), &user()).await.unwrap();
    assert!(stage.agent.wake(id(1), 8080, LIMIT).await.unwrap());
    stage.agent.destroy(id(1), true, &user()).await.unwrap();
    stage.reach(1, Destroyed).await;
}

pub async fn a_restart_is_a_new_boot(stage: &Stage) {
    stage.create(stage.bundle(1, stage.programs.sleep, json!({}))).await;
    let first = stage.reach(1, Started).await;
    stage.agent.restart(id(1), StopOptions::default(), false, &user()).await.unwrap();
    stage.until(1, "a new boot", |view| view.state == Started && view.boot_id != first.boot_id).await;
    stage.agent.destroy(id(1), true, &user()).await.unwrap();
    stage.reach(1, Destroyed).await;
}
