//! What happens when agents and shims die.

use std::sync::Arc;

use atoll_driver::{Adopted, Driver, MachineSpec, Running};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;

use crate::support::{World, eventually, exec, kill, log, processes_with, shim_pid, within};

async fn adopt(world: &World, spec: &MachineSpec) -> Adopted {
    within("an adoption", world.driver.adopt(spec.id, &spec.dir)).await.unwrap()
}

async fn adopted(world: &World, spec: &MachineSpec) -> Arc<dyn Running> {
    match adopt(world, spec).await {
        Adopted::Running(machine) => machine,
        Adopted::Exited(exit) => panic!("it has exited: {exit:?}"),
        Adopted::Nothing => panic!("nothing was found"),
    }
}

/// Starts a machine in a runtime of its own and ends that runtime, as an agent's death does: every
/// connection closes, and nothing is said to the shim.
fn start_and_lose_the_agent(world: &World, spec: &MachineSpec) -> u32 {
    std::thread::scope(|scope| {
        let agent = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(world.start(spec)).pid()
        });
        agent.join().unwrap()
    })
}

#[tokio::test]
async fn a_machine_outlives_its_agent() {
    let world = World::new();
    let spec = world.machine("trap 'exit 9' TERM; n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done");
    let pid = start_and_lose_the_agent(&world, &spec);
    let lines = log(&spec).lines().count();
    eventually("output without an agent", || log(&spec).lines().count() > lines + 5).await;

    let machine = adopted(&world, &spec).await;
    assert_eq!((machine.boot_id(), machine.pid()), (spec.boot_id.as_str(), pid));
    assert_eq!(exec(&machine, &["echo", "again"]).await.stdout, "again\n");
    let seen = log(&spec);
    let numbers: Vec<u32> = seen.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u32), "lines were lost: {numbers:?}");

    machine.signal(15).await.unwrap();
    let exit = within("an exit", machine.wait()).await;
    assert_eq!((exit.code, exit.error.clone()), (9, None));
    // Told again to an agent that comes later.
    assert!(matches!(adopt(&world, &spec).await, Adopted::Exited(later) if later == exit));
    world.destroy(&spec).await;
    assert!(matches!(adopt(&world, &spec).await, Adopted::Nothing));
}

#[tokio::test]
async fn an_exit_without_an_agent_is_recorded() {
    let world = World::new();
    let spec = world.machine("sleep 0.1; exit 4");
    start_and_lose_the_agent(&world, &spec);
    eventually("the record", || spec.dir.join("exit.json").exists()).await;
    let found = adopt(&world, &spec).await;
    assert!(matches!(&found, Adopted::Exited(exit) if exit.code == 4 && exit.error.is_none()));
    world.destroy(&spec).await;
}

#[tokio::test]
async fn commands_end_with_their_agent() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    std::thread::scope(|scope| {
        let agent = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let machine = world.start(&spec).await;
                let streams = machine.exec(crate::support::command(&["sleep", "3000"])).await.unwrap();
                assert!(machine.processes().await.unwrap().iter().any(|process| process.command == "sleep 3000"));
                drop(streams.input);
                // Not dropped in order: an agent that is killed says nothing.
                std::mem::forget(streams.output);
            });
        });
        agent.join().unwrap();
    });
    let machine = adopted(&world, &spec).await;
    within("the command's end", async {
        while machine.processes().await.unwrap().iter().any(|process| process.command == "sleep 3000") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    machine.kill().await.unwrap();
    world.destroy(&spec).await;
}

#[tokio::test]
async fn a_machine_dies_with_its_shim_and_that_is_told() {
    let world = World::new();
    let spec = world.machine("trap '' TERM; sleep 1001 & sleep 1002");
    let machine = world.start(&spec).await;
    let init = machine.pid();
    kill(shim_pid(&spec), Signal::KILL);
    let exit = within("an exit", machine.wait()).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert!(exit.error.is_some_and(|error| error.contains("shim")));
    eventually("the machine's end", || !std::path::Path::new(&format!("/proc/{init}/root/bin")).exists()).await;
    assert!(matches!(adopt(&world, &spec).await, Adopted::Exited(exit) if exit.error.is_some()));
    assert!(machine.stats().await.is_err());
    world.destroy(&spec).await;
    assert!(matches!(adopt(&world, &spec).await, Adopted::Nothing));
}

#[tokio::test]
async fn a_paused_machine_whose_shim_died_can_be_removed() {
    let world = World::new();
    let spec = world.machine("while :; do sleep 0.01; done");
    let machine = world.start(&spec).await;
    machine.pause().await.unwrap();
    kill(shim_pid(&spec), Signal::KILL);
    within("an exit", machine.wait()).await;
    world.destroy(&spec).await;
}

#[tokio::test]
async fn a_stuck_shim_can_be_removed() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    let _machine = world.start(&spec).await;
    kill(shim_pid(&spec), Signal::STOP);
    world.destroy(&spec).await;
}

#[tokio::test]
async fn destroying_is_possible_at_any_time_and_again() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    // Before anything was made.
    world.destroy(&spec).await;
    let machine = world.start(&spec).await;
    // While it runs.
    world.destroy(&spec).await;
    assert!(within("an exit", machine.wait()).await.error.is_some());
    world.destroy(&spec).await;
    // And it can be started once more.
    let machine = world.start(&spec).await;
    machine.kill().await.unwrap();
    within("an exit", machine.wait()).await;
    world.destroy(&spec).await;
}

#[tokio::test]
async fn a_start_killed_at_any_moment_leaves_nothing_after_removal() {
    let world = World::new();
    for microseconds in (0..12_000).step_by(400) {
        let spec = world.machine("exec sleep 1000");
        let start = world.driver.start(&spec);
        // Dropping a start half way closes the connection, as the agent's death does.
        let outcome = tokio::time::timeout(std::time::Duration::from_micros(microseconds), start).await;
        if microseconds % 800 == 0 {
            for pid in processes_with(&format!("run {}", spec.dir.display())) {
                kill(pid, Signal::KILL);
            }
        }
        drop(outcome);
        world.destroy(&spec).await;
    }
}

#[tokio::test]
async fn a_foreign_process_on_the_socket_is_neither_taken_for_a_shim_nor_killed() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    std::fs::create_dir_all(&spec.dir).unwrap();
    // This process has the folder's lock and listens where a shim would, as one would see it whose
    // number had passed to us. Were it killed, this test would end for all to see.
    let lock = std::fs::File::create(spec.dir.join("shim.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let listener = tokio::net::UnixListener::bind(spec.dir.join("shim.sock")).unwrap();
    let speak = async {
        let (mut connection, _) = within("an agent", listener.accept()).await.unwrap();
        connection.write_all(b"220 welcome to something else\r\n").await.unwrap();
    };
    let (found, ()) = tokio::join!(adopt(&world, &spec), speak);
    assert!(matches!(found, Adopted::Nothing));

    let let_go = async {
        // It was looked at, and more than once.
        for _ in 0..3 {
            within("a cleaner", listener.accept()).await.unwrap();
        }
        drop(lock);
    };
    tokio::join!(world.destroy(&spec), let_go);
}

#[tokio::test]
async fn a_socket_that_a_dead_shim_left_is_removed() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    std::fs::create_dir_all(&spec.dir).unwrap();
    drop(std::os::unix::net::UnixListener::bind(spec.dir.join("shim.sock")).unwrap());
    assert!(matches!(adopt(&world, &spec).await, Adopted::Nothing));
    // And is in nobody's way.
    let machine = world.start(&spec).await;
    machine.kill().await.unwrap();
    world.destroy(&spec).await;
}
