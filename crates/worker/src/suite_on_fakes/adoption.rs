//! Agents that follow one another on the same host.

use std::sync::Arc;

use serde_json::json;

use atoll_model::MachineState::{Destroyed, Restarting, Started, Stopped};

use super::{PROGRAMS, stage};
use crate::fake::World;
use crate::suite::{LIMIT, Stage, id};
use crate::{Caller, StopOptions};

/// Runs `first` with an agent that is then gone at once, as by SIGKILL.
fn with_an_agent<T: Send + 'static>(world: &Arc<World>, work: impl AsyncFnOnce(Stage) -> T + Send + 'static) -> T {
    let world = world.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let result = runtime.block_on(async { work(stage(&world).await).await });
        // Tasks are dropped where they are.
        drop(runtime);
        result
    });
    thread.join().unwrap()
}

#[test]
fn running_machines_are_adopted_with_their_boots_and_stay_routable() {
    let world = World::new();
    let boot = with_an_agent(&world, async |stage| {
        let mut extra = stage.service();
        extra["services"][0]["checks"] = json!([{ "type": "http" }]);
        stage.create(stage.bundle(1, PROGRAMS.serve, extra)).await;
        stage
            .until(1, "passing", |view| {
                view.checks.iter().all(|c| c.status == atoll_model::service::CheckStatus::Passing)
                    && !view.checks.is_empty()
            })
            .await;
        stage.create(stage.bundle(2, PROGRAMS.sleep, json!({}))).await;
        stage.reach(2, Started).await;
        stage.agent.stop(id(2), StopOptions::default(), &Caller::default()).await.unwrap();
        stage.reach(2, Stopped).await;
        // What is known of fitness is recorded without anybody waiting for it.
        stage.agent.cordon(id(2), true, &Caller::default()).await.unwrap();
        stage.agent.get(id(1)).unwrap().boot_id
    });
    world.rows.lock().unwrap().clear();
    let starts = world.starts.load(std::sync::atomic::Ordering::Relaxed);
    let seen = world.clone();
    with_an_agent(&world, async move |stage| {
        // Published before the agent answers its first call.
        let rows = seen.rows.lock().unwrap().clone();
        assert_eq!(rows.len(), 2);
        for row in rows.values() {
            let atoll_model::Row::Machine(row) = row else { panic!("{row:?}") };
            assert!(row.id == id(2) || row.services[0].healthy, "an adopted machine left the routing: {row:#?}");
        }
        let view = stage.agent.get(id(1)).unwrap();
        assert_eq!((view.state, view.boot_id), (Started, boot));
        let stopped = stage.agent.get(id(2)).unwrap();
        assert!(stopped.state == Stopped && stopped.cordoned);
        assert!(stopped.events.iter().any(|event| event.event_type == "exit"));
        assert!(!stage.agent.wake(id(1), 8080, LIMIT).await.unwrap());
        assert_eq!(seen.starts.load(std::sync::atomic::Ordering::Relaxed), starts);
        for number in [1, 2] {
            stage.agent.destroy(id(number), true, &Caller::default()).await.unwrap();
            stage.reach(number, Destroyed).await;
        }
    });
    assert_eq!(world.leaks(), Vec::<String>::new());
}

#[test]
fn what_ended_while_no_agent_looked_follows_its_policy() {
    let world = World::new();
    with_an_agent(&world, async |stage| {
        for (number, policy) in [(1, "always"), (2, "no")] {
            let extra = json!({ "restart": { "policy": policy } });
            stage.create(stage.bundle(number, PROGRAMS.sleep, extra)).await;
            stage.reach(number, Started).await;
        }
    });
    for machine in world.machines.lock().unwrap().values() {
        machine.end(1, None, false);
    }
    with_an_agent(&world, async |stage| {
        assert!(matches!(stage.agent.get(id(1)).unwrap().state, Restarting | Started));
        stage.until(1, "the restart", |view| view.state == Started && view.pid.is_some()).await;
        let view = stage.reach(2, Stopped).await;
        assert!(view.events.iter().any(|event| event.event_type == "exit"), "{view:#?}");
    });
}

#[test]
fn after_a_reboot_what_ran_runs_again() {
    let world = World::new();
    let boot = with_an_agent(&world, async |stage| {
        stage.create(stage.bundle(1, PROGRAMS.sleep, json!({ "restart": { "policy": "no" } }))).await;
        let view = stage.reach(1, Started).await;
        stage.create(stage.bundle(2, PROGRAMS.sleep, json!({}))).await;
        stage.reach(2, Started).await;
        stage.agent.stop(id(2), StopOptions::default(), &Caller::default()).await.unwrap();
        stage.reach(2, Stopped).await;
        view.boot_id
    });
    world.reboot();
    with_an_agent(&world, async move |stage| {
        let view = stage.until(1, "the start", |view| view.state == Started).await;
        assert_ne!(view.boot_id, boot);
        assert_eq!(stage.agent.get(id(2)).unwrap().state, Stopped);
    });
}
