//! Network policies that change.

use serde_json::json;

use atoll_model::MachineState::{Started, Stopped};
use atoll_model::policy::NetworkLimits;

use super::{PROGRAMS, stage};
use crate::fake::World;
use crate::suite::{id, version};
use crate::{Caller, StopOptions, WorkerError};

fn closed() -> NetworkLimits {
    NetworkLimits { ingress: Some(Default::default()), ..NetworkLimits::default() }
}

fn held_to(world: &World) -> Option<NetworkLimits> {
    world.limited.lock().unwrap().get(&id(1)).cloned()
}

#[tokio::test]
async fn changed_policies_hold_at_once_and_at_later_starts() {
    let world = World::new();
    let stage = stage(&world).await;
    stage.create(stage.bundle(1, PROGRAMS.sleep, json!({}))).await;
    let before = stage.reach(1, Started).await;
    let view = stage.agent.set_limits(id(1), closed()).await.unwrap();
    assert_eq!((held_to(&world), &view.limits), (Some(closed()), &closed()));
    assert_eq!((view.version, view.boot_id), (before.version, before.boot_id), "the machine was started again");

    stage.agent.stop(id(1), StopOptions::default(), &Caller::default()).await.unwrap();
    stage.reach(1, Stopped).await;
    assert_eq!(held_to(&world), None);
    stage.agent.start(id(1), &Caller::default()).await.unwrap();
    stage.reach(1, Started).await;
    assert_eq!(held_to(&world), Some(closed()));

    stage.agent.stop(id(1), StopOptions::default(), &Caller::default()).await.unwrap();
    stage.reach(1, Stopped).await;
    stage.agent.set_limits(id(1), NetworkLimits::default()).await.unwrap();
    assert_eq!(held_to(&world), None, "a machine that is down has no interface");
    stage.agent.start(id(1), &Caller::default()).await.unwrap();
    let view = stage.reach(1, Started).await;
    assert_eq!((held_to(&world), view.version), (Some(NetworkLimits::default()), version(1)));

    let nobody = stage.agent.set_limits(id(9), closed()).await;
    assert!(matches!(nobody, Err(WorkerError::NotFound { .. })));
    stage.agent.destroy(id(1), true, &Caller::default()).await.unwrap();
    stage.reach(1, atoll_model::MachineState::Destroyed).await;
    assert_eq!(world.leaks(), Vec::<String>::new());
}
