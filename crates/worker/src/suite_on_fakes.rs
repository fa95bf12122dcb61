//! The behavioural suite over the fakes.

use std::sync::Arc;

use crate::Worker;
use crate::fake::World;
use crate::seams::NoHook;
use crate::suite::{Programs, Stage, lifecycle};

const PROGRAMS: Programs = Programs {
    serve: &["serve", "8080"],
    sleep: &["sleep"],
    exit_3: &["exit", "3"],
    exit_0: &["exit", "0"],
    stubborn: &["stubborn"],
    nonsense: &["nonsense"],
};

async fn stage(world: &Arc<World>) -> Stage {
    let agent = Worker::start(world.config(), world.deps(Arc::new(NoHook))).await.unwrap();
    Stage { agent, programs: PROGRAMS, image: "sha256:test".into() }
}

macro_rules! suite {
    ($($module:ident :: $name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let world = World::new();
                let stage = stage(&world).await;
                $module::$name(&stage).await;
                assert_eq!(world.leaks(), Vec::<String>::new());
            }
        )*
    };
}

suite! {
    lifecycle::a_machine_lives_and_dies,
    lifecycle::creating_twice_is_one_machine,
    lifecycle::skip_launch_rests_stopped,
    lifecycle::a_stubborn_process_is_killed_after_the_timeout,
    lifecycle::the_restart_policy_gives_up_after_its_retries,
    lifecycle::auto_destroy_removes_a_finished_machine,
    lifecycle::a_program_that_cannot_run_fails,
    lifecycle::an_update_replaces_and_keeps_the_run_state,
    lifecycle::a_wake_returns_when_the_port_accepts,
    lifecycle::a_restart_is_a_new_boot,
}
