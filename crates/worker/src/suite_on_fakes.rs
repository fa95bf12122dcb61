//! The behavioural suite over the fakes, and what only a fake host can show: rows, checks, records
//! that cannot be written, agents that die between any two steps.

mod adoption;
mod crash;
mod grpc;
mod policies;
mod routing;

use std::sync::Arc;

use crate::Worker;
use crate::fake::World;
use crate::seams::{NoHook, StepHook};
use crate::suite::{Programs, Stage, access, lifecycle};

const PROGRAMS: Programs = Programs {
    serve: &["serve", "8080"],
    sleep: &["sleep"],
    exit_3: &["exit", "3"],
    exit_0: &["exit", "0"],
    stubborn: &["stubborn"],
    nonsense: &["nonsense"],
    print_key: &["print"],
};

const IMAGE: &str = "sha256:test";

async fn stage(world: &Arc<World>) -> Stage {
    stage_with(world, Arc::new(NoHook)).await
}

async fn stage_with(world: &Arc<World>, hook: Arc<dyn StepHook>) -> Stage {
    let agent = Worker::start(world.config(), world.deps(hook)).await.unwrap();
    Stage { agent, programs: PROGRAMS, image: IMAGE.into() }
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
    access::a_lease_keeps_others_from_changing_the_machine,
    access::waiting_is_level_triggered_and_knows_versions,
    access::metadata_changes_without_a_new_version,
    access::a_command_runs_beside_the_main_process,
    access::a_suspended_machine_goes_on_where_it_was,
    access::an_idle_machine_is_stopped_unless_it_has_changed,
    access::logs_tell_what_the_node_did,
    access::a_machine_that_does_not_fit_is_refused,
}
