//! Containers as they are used: starting, ending, what a process is given, commands beside it, and
//! its output.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::support::{self, World, command, eventually, exec, finish, log, within};
use atoll_driver::{Driver, DriverError, ExecInput, ExecOutput, FileSpec};

#[tokio::test]
async fn a_machine_runs_and_its_exit_code_is_told() {
    let world = World::new();
    let spec = world.machine("echo hello; echo trouble >&2; exit 7");
    let (exit, output) = world.run(&spec).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed, exit.error), (7, None, false, None));
    assert!(exit.at_ms > 1_600_000_000_000);
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["hello", "trouble"]);
}

#[tokio::test]
async fn a_signal_ends_the_main_process_and_is_told() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    let machine = world.start(&spec).await;
    assert_eq!(machine.boot_id(), spec.boot_id);
    assert!(machine.pid() > 1);
    machine.signal(15).await.unwrap();
    let exit = within("an exit", machine.wait()).await;
    assert_eq!((exit.code, exit.signal, exit.error), (143, Some(15), None));
    assert!(matches!(machine.signal(15).await, Ok(()) | Err(DriverError::NotRunning { .. })));
    world.destroy(&spec).await;
}

#[tokio::test]
async fn a_handled_signal_reaches_the_process() {
    let world = World::new();
    let spec = world.machine("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    let machine = world.start(&spec).await;
    eventually("the trap", || log(&spec).contains("ready")).await;
    machine.signal(15).await.unwrap();
    let exit = within("an exit", machine.wait()).await;
    assert_eq!(exit.code, 3);
    assert!(log(&spec).ends_with("bye\n"));
    world.destroy(&spec).await;
}

#[tokio::test]
async fn kill_ends_every_process() {
    let world = World::new();
    let spec = world.machine("trap '' TERM INT HUP; sleep 1000 & sleep 1000 & wait");
    let machine = world.start(&spec).await;
    machine.kill().await.unwrap();
    let exit = within("an exit", machine.wait()).await;
    assert_eq!((exit.code, exit.signal, exit.error), (137, Some(9), None));
    world.destroy(&spec).await;
}

#[tokio::test]
async fn a_process_gets_its_environment_folder_and_user() {
    let world = World::new();
    let mut spec = world.machine("echo $COLOR:$HOME:$(pwd):$(id -u):$(id -g):$(id -G); touch /tmp/x; hostname");
    spec.process.env = BTreeMap::from([("COLOR".into(), "blue sky".into())]);
    spec.process.working_dir = "/srv/new/folder".into();
    spec.process.user = "web".into();
    spec.hostname = "a-machine".into();
    // The image's /tmp belongs to root.
    let (_, output) = world.run(&spec).await;
    let mut lines = output.lines().collect::<Vec<_>>();
    lines.sort_unstable();
    assert!(lines.contains(&"blue sky:/tmp:/srv/new/folder:33:34:34 40"), "{output}");
    assert!(lines.contains(&"a-machine"), "{output}");
    assert!(output.contains("Permission denied"), "{output}");
}

#[tokio::test]
async fn files_are_written_before_the_process_runs() {
    let world = World::new();
    let mut spec =
        world.machine("cat /etc/hosts /etc/resolv.conf /etc/hostname /deep/er/secret; stat -c %a /deep/er/secret");
    spec.files = vec![FileSpec { path: "/deep/er/secret".into(), content: b"s\xffcret\n".to_vec(), mode: 0o640 }];
    let (_, output) = world.run(&spec).await;
    let expected = format!("127.0.0.1\tlocalhost\nnameserver 127.0.0.1\n{}\ns\u{fffd}cret\n640\n", spec.hostname);
    assert_eq!(output, expected);
}

#[tokio::test]
async fn every_start_begins_with_the_image_as_it_is() {
    let world = World::new();
    let spec = world.machine("ls /; touch /mark; rm /bin/vi");
    for _ in 0..2 {
        let machine = world.start(&spec).await;
        let exit = within("an exit", machine.wait()).await;
        assert_eq!(exit.code, 0);
        assert!(!log(&spec).contains("mark"));
    }
    assert!(world.image().join("bin/vi").exists());
    world.destroy(&spec).await;
}

#[tokio::test]
async fn upper_layers_win_and_many_are_possible() {
    let world = World::new();
    let mut spec = world.machine("cat /which; ls /many | wc -l");
    for number in 0..100 {
        let layer = world.dir.path().join(format!("layer-with-a-long-name-to-fill-any-option-string-{number}:,"));
        std::fs::create_dir_all(layer.join("many")).unwrap();
        std::fs::write(layer.join("which"), format!("{number}\n")).unwrap();
        std::fs::write(layer.join(format!("many/{number}")), "").unwrap();
        spec.layers.push(layer);
    }
    let (_, output) = world.run(&spec).await;
    assert_eq!(output, "99\n100\n");
}

#[tokio::test]
async fn what_cannot_run_is_refused_with_a_reason_and_leaves_nothing() {
    let world = World::new();
    let refused = async |change: fn(&mut atoll_driver::MachineSpec), names: &str| {
        let mut spec = world.machine("true");
        change(&mut spec);
        match world.driver.start(&spec).await.map(|_| "it started") {
            Err(DriverError::Unstartable { reason, .. }) => assert!(reason.contains(names), "{reason}"),
            other => panic!("{names}: {other:?}"),
        }
        support::nothing_is_left_of(&spec).await;
        assert!(matches!(world.driver.adopt(spec.id, &spec.dir).await.unwrap(), atoll_driver::Adopted::Nothing));
    };
    refused(|spec| spec.process.args = vec!["no-such-program".into()], "\"no-such-program\"").await;
    refused(|spec| spec.process.args = vec!["/etc/passwd".into()], "\"/etc/passwd\"").await;
    refused(|spec| spec.process.args.clear(), "no program").await;
    refused(|spec| spec.process.user = "stranger".into(), "\"stranger\"").await;
    refused(|spec| spec.process.working_dir = "/etc/passwd/x".into(), "/etc/passwd/x").await;
    refused(|spec| spec.layers.clear(), "no layers").await;
}

#[tokio::test]
async fn what_the_host_lacks_is_an_error_of_the_host() {
    let world = World::new();
    let mut spec = world.machine("true");
    spec.network_namespace = "/nowhere".into();
    let error = world.driver.start(&spec).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, DriverError::Io { .. }), "{error:?}");
    assert!(atoll_signals::with_causes(&error).contains("/nowhere"), "{}", atoll_signals::with_causes(&error));
    support::nothing_is_left_of(&spec).await;
}

#[tokio::test]
async fn commands_run_beside_the_main_process() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    let machine = world.start(&spec).await;
    let finished = exec(&machine, &["sh", "-c", "echo out; echo err >&2; exit 5"]).await;
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str(), finished.code), ("out\n", "err\n", Some(5)));

    let refused = machine.exec(command(&["nothing-like-it"])).await.unwrap_err();
    assert!(refused.to_string().contains("\"nothing-like-it\""), "{refused}");

    let streams = machine.exec(command(&["sh", "-c", "kill -9 $$"])).await.unwrap();
    assert_eq!(finish(streams).await.code, Some(137));
    machine.kill().await.unwrap();
    within("an exit", machine.wait()).await;
    world.destroy(&spec).await;
}

#[tokio::test]
async fn a_command_takes_input_and_gives_output_at_the_callers_pace() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    let machine = world.start(&spec).await;
    let mut streams = machine.exec(command(&["cat"])).await.unwrap();
    let input = streams.input.clone();
    drop(streams.input);
    let sent: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    let to_send = sent.clone();
    tokio::spawn(async move {
        for part in to_send.chunks(100_000) {
            input.send(ExecInput::Stdin(part.to_vec())).await.unwrap();
        }
    });
    let (mut received, mut code) = (Vec::new(), None);
    while let Some(output) = within("output", streams.output.recv()).await {
        match output {
            ExecOutput::Stdout(bytes) => received.extend(bytes),
            ExecOutput::Stderr(bytes) => panic!("{}", String::from_utf8_lossy(&bytes)),
            ExecOutput::Exit { code: ended, .. } => code = Some(ended),
        }
    }
    assert_eq!((received == sent, received.len(), code), (true, sent.len(), Some(0)));
    world.driver.destroy(spec.id, &spec.dir, &spec.cgroup).await.unwrap();
}

#[tokio::test]
async fn a_command_in_a_terminal_can_be_resized() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    let machine = world.start(&spec).await;
    let mut terminal = command(&["sh", "-c", "stty size; read line; stty size; tty"]);
    terminal.process.tty = true;
    terminal.terminal = Some((10, 20));
    let streams = machine.exec(terminal).await.unwrap();
    streams.input.send(ExecInput::Resize { rows: 33, columns: 44 }).await.unwrap();
    streams.input.send(ExecInput::Stdin(b"go\n".to_vec())).await.unwrap();
    let finished = finish(streams).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.contains("33 44"), "{finished:?}");
    assert!(finished.stdout.contains("/dev/pts/"), "{finished:?}");
    machine.kill().await.unwrap();
    world.destroy(&spec).await;
}

#[tokio::test]
async fn a_command_nobody_listens_to_is_killed() {
    let world = World::new();
    let spec = world.machine("exec sleep 1000");
    let machine = world.start(&spec).await;
    let streams = machine.exec(command(&["sleep", "2000"])).await.unwrap();
    let listed = machine.processes().await.unwrap();
    assert!(listed.iter().any(|process| process.command == "sleep 2000"), "{listed:?}");
    drop(streams);
    within("the command's end", async {
        while machine.processes().await.unwrap().iter().any(|process| process.command == "sleep 2000") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    machine.kill().await.unwrap();
    world.destroy(&spec).await;
}

#[tokio::test]
async fn processes_and_what_they_use_can_be_seen() {
    let world = World::new();
    let spec = world.machine("big=$(head -c 2000000 /dev/zero | tr '\\0' x); cd /tmp; while :; do :; done");
    let machine = world.start(&spec).await;
    let cpu = async || machine.stats().await.unwrap().cpu_time;
    let before = cpu().await;
    within("use of the CPU", async { while cpu().await <= before {} }).await;
    let listed = within("the shell's folder", async {
        loop {
            let listed = machine.processes().await.unwrap();
            if listed.iter().all(|process| process.directory == "/tmp") {
                break listed;
            }
        }
    })
    .await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(listed[0].command.starts_with("sh -c"), "{listed:?}");
    // Kernels count pages in lots, so that a small number of them may show as none.
    assert!(listed[0].rss > 1_000_000 && listed[0].pid > 1, "{listed:?}");
    let stats = machine.stats().await.unwrap();
    assert!(stats.memory_bytes > 1_000_000, "{stats:?}");
    assert_eq!(stats.processes, 2, "{stats:?}");
    machine.kill().await.unwrap();
    world.destroy(&spec).await;
}

#[tokio::test]
async fn a_paused_machine_stands_still_and_goes_on() {
    let world = World::new();
    let spec = world.machine("n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done");
    let machine = world.start(&spec).await;
    eventually("output", || log(&spec).lines().count() > 3).await;
    machine.pause().await.unwrap();
    let cpu = machine.stats().await.unwrap().cpu_time;
    let used = Instant::now();
    while used.elapsed().as_millis() < 100 {
        assert_eq!(machine.stats().await.unwrap().cpu_time, cpu);
    }
    let lines = log(&spec).lines().count();
    machine.resume().await.unwrap();
    eventually("output", || log(&spec).lines().count() > lines + 3).await;
    // A paused machine can be killed.
    machine.pause().await.unwrap();
    machine.kill().await.unwrap();
    assert_eq!(within("an exit", machine.wait()).await.code, 137);
    world.destroy(&spec).await;
}

#[tokio::test]
async fn orphans_are_reaped() {
    let world = World::new();
    let spec = world.machine("for n in 1 2 3 4 5; do (sleep 0.01 &) ; done; exec sleep 1000");
    let machine = world.start(&spec).await;
    within("the orphans' end", async {
        while machine.stats().await.unwrap().processes > 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    machine.kill().await.unwrap();
    world.destroy(&spec).await;
}

#[tokio::test]
async fn twenty_machines_start_at_once() {
    let world = World::new();
    let specs: Vec<_> = (0..20).map(|_| world.machine("echo here; exec sleep 1000")).collect();
    let machines = futures(specs.iter().map(|spec| world.start(spec))).await;
    for (machine, spec) in machines.iter().zip(&specs) {
        assert_eq!(machine.boot_id(), spec.boot_id);
        machine.kill().await.unwrap();
    }
    futures(specs.iter().map(|spec| world.destroy(spec))).await;
}

/// Waits for all, at once.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in waiting.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *slot = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}
