//! The agent dies after the N-th recorded step, for every N of a machine's life; the next agent
//! finishes or unwinds, and nothing is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use atoll_model::MachineState::{Destroyed, Started, Stopped};

use super::{PROGRAMS, stage, stage_with};
use crate::fake::World;
use crate::seams::StepHook;
use crate::suite::{Stage, id, version};
use crate::{Caller, StopOptions, WorkerError};

/// Never returns from the step at which the agent is to die: nobody hears of it any more.
struct DieAfter {
    steps_left: AtomicUsize,
    dead: Arc<Notify>,
}

#[async_trait]
impl StepHook for DieAfter {
    async fn recorded(&self, _step: &str) {
        let left = self.steps_left.fetch_sub(1, Ordering::SeqCst);
        if left <= 1 {
            self.steps_left.store(0, Ordering::SeqCst);
            self.dead.notify_one();
            std::future::pending().await
        }
    }
}

/// One machine's life, each call asked once.
async fn live(stage: &Stage) -> Result<(), WorkerError> {
    let user = Caller::default();
    stage.try_create(stage.bundle(1, PROGRAMS.serve, stage.service())).await?;
    stage.reach(1, Started).await;
    let mut second = stage.bundle(1, PROGRAMS.serve, stage.service());
    second.version = version(2);
    stage.update(second).await?;
    stage.until(1, "the update", |view| view.state == Started && view.version == version(2)).await;
    stage.agent.stop(id(1), StopOptions::default(), &user).await?;
    stage.reach(1, Stopped).await;
    stage.agent.start(id(1), &user).await?;
    stage.reach(1, Started).await;
    stage.agent.destroy(id(1), true, &user).await?;
    stage.reach(1, Destroyed).await;
    Ok(())
}

/// Lives until the step, then is gone; says whether the step was reached.
fn die_after(world: &Arc<World>, steps: usize) -> bool {
    let dead = Arc::new(Notify::new());
    let hook = Arc::new(DieAfter { steps_left: AtomicUsize::new(steps), dead: dead.clone() });
    let world = world.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let died = runtime.block_on(async {
            let life = tokio::spawn(async move { live(&stage_with(&world, hook).await).await });
            tokio::select! {
                () = dead.notified() => true,
                result = life => {
                    result.unwrap().unwrap();
                    false
                }
            }
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
        died
    });
    thread.join().unwrap()
}

/// The next agent comes to rest by itself, answers, and can remove the machine without a trace.
fn recover(world: &Arc<World>, steps: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let stage = stage(world).await;
        if stage.agent.get(id(1)).is_ok() {
            let view = stage
                .until(1, "rest", |view| !view.state.is_transient() && view.state != atoll_model::MachineState::Created)
                .await;
            let running = world.machines.lock().unwrap().values().filter(|machine| !machine.ended()).count();
            let expected = usize::from(view.state == Started);
            assert_eq!(running, expected, "step {steps}: {view:#?}");
            assert!(matches!(view.state, Started | Stopped | Destroyed), "step {steps}: {view:#?}");
            if view.state == Started {
                // What runs is the version that is recorded.
                assert!(stage.agent.exec(id(1), exec()).await.is_ok());
            }
            stage.agent.destroy(id(1), true, &Caller::default()).await.unwrap();
            stage.reach(1, Destroyed).await;
        }
        assert_eq!(stage.agent.node().memory_promised_mb, 0);
    });
    assert_eq!(world.leaks(), Vec::<String>::new(), "step {steps}");
}

fn exec() -> crate::ExecCommand {
    crate::ExecCommand { command: vec!["true".into()], env: Default::default(), terminal: None }
}

#[test]
fn an_agent_that_dies_after_any_step_is_followed_by_one_that_finishes() {
    let mut steps = 1;
    loop {
        let world = World::new();
        let died = die_after(&world, steps);
        recover(&world, steps);
        if !died {
            break;
        }
        steps += 1;
    }
    assert!(steps > 15, "a life has only {steps} recorded steps: is the hook still called?");
}

#[test]
fn an_agent_that_dies_again_and_again_while_recovering_still_finishes() {
    let world = World::new();
    assert!(die_after(&world, 6));
    for steps in 1..6 {
        let again = world.clone();
        let dead = Arc::new(Notify::new());
        let hook = Arc::new(DieAfter { steps_left: AtomicUsize::new(steps), dead: dead.clone() });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let _stage = stage_with(&again, hook).await;
            // A recovery may need fewer steps than that.
            tokio::time::timeout(Duration::from_millis(100), dead.notified()).await.ok();
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
    recover(&world, 0);
}
