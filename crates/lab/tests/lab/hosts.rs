//! Hosts and what runs in them.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use atoll_lab::verb::HostState;
use atoll_lab::{Host, LabError};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::support::{LIMIT, eventually, node, pair, start, udp, undisturbed};

async fn output(host: &Host, script: &str) -> String {
    let output = host.command("sh").unwrap().args(["-c", script]).output().await.unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Whether a process on this machine has this word among its arguments.
fn runs(word: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
    processes
        .filter_map(|file| fs::read(file).ok())
        .any(|arguments| arguments.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_has_its_own_name_processes_network_and_run() {
    let (_lab, a, b) = pair("").await;
    assert_eq!(output(&a, "cat /proc/sys/kernel/hostname").await, "a");
    assert_eq!(output(&a, "ls /sys/class/net | xargs").await, "eth0 lo");
    let processes: usize = output(&a, "ls /proc | grep -c '^[0-9]'").await.parse().unwrap();
    assert!(processes < 8, "{processes} processes seen");
    output(&a, "touch /run/mine").await;
    assert_eq!(output(&b, "ls /run").await, "");
    assert_eq!(output(&a, "cat /proc/sys/net/ipv4/ip_forward").await, "1");
    assert_eq!(output(&a, "grep -c . /etc/hosts").await, "6");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_groups_made_in_a_host_belong_to_it() {
    let (lab, a, _b) = pair("").await;
    let made = output(
        &a,
        "for h in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -e $h/cgroup.procs ] && mkdir $h/mine && echo $h; done",
    )
    .await;
    assert!(!made.is_empty());
    let group = a.status().unwrap().group;
    for hierarchy in made.lines() {
        let outer = std::path::Path::new(hierarchy).join(&group).join("mine");
        assert!(outer.is_dir(), "{} is not in the host's group", outer.display());
    }
    a.kill().await.unwrap();
    for hierarchy in made.lines() {
        assert!(!std::path::Path::new(hierarchy).join(&group).exists(), "{hierarchy} still has the group");
    }
    drop(lab);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_get_streams_environment_folder_and_give_their_exit_code() {
    let (_lab, a, _b) = pair("").await;
    let code = |script: &'static str| {
        let mut command = a.command("sh").unwrap();
        async move { command.args(["-c", script]).status().await.unwrap().code() }
    };
    assert_eq!(code("exit 0").await, Some(0));
    assert_eq!(code("exit 7").await, Some(7));
    assert_eq!(code("kill -9 $$").await, Some(137));
    let missing = a.command("no-such-program").unwrap().stderr(Stdio::null()).status().await.unwrap();
    assert_eq!(missing.code(), Some(127));

    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut child = a
        .command("sh")
        .unwrap()
        .args(["-c", "read line; echo $line $WORD; pwd"])
        .env("WORD", "there")
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let expected = format!("hello there\n{}\n", folder.path().display());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_program_and_killing_the_companion_kills_it() {
    let (_lab, a, _b) = pair("").await;
    let mut child = a
        .command("sh")
        .unwrap()
        .args(["-c", "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("ready"));
    let companion = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(companion, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("got"));
    assert_eq!(child.wait().await.unwrap().code(), Some(3));

    let word = "86400.125";
    let mut child = a.command("sleep").unwrap().arg(word).spawn().unwrap();
    eventually("the program runs", async || output(&a, "cat /proc/*/cmdline 2>&1").await.contains(word).then_some(()))
        .await;
    child.kill().await.unwrap();
    eventually("the program is gone", async || (!runs(word)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_everything_but_the_disk() {
    let (lab, a, b) = pair("").await;
    let disk = a.disk().unwrap();
    output(&a, &format!("echo kept > {}/file; touch /run/lost", disk.display())).await;
    let word = format!("86400.{}", std::process::id());
    output(&a, &format!("setsid sleep {word} > /dev/null 2>&1 < /dev/null &")).await;
    eventually("the program runs", async || runs(&word).then_some(())).await;

    a.kill().await.unwrap();
    assert!(!runs(&word));
    assert_eq!(a.status().unwrap().state, HostState::Down);
    assert!(matches!(a.command("true"), Err(LabError::WrongState { .. })));
    assert!(matches!(a.kill().await, Err(LabError::WrongState { .. })));

    a.boot().await.unwrap();
    assert_eq!(output(&a, &format!("cat {}/file; ls /run", disk.display())).await, "kept");
    let ((at_a, _), (at_b, to)) = (udp(&a).await, udp(&b).await);
    at_a.send_to(b"again", to).unwrap();
    assert_eq!(undisturbed(|| at_b.recv(&mut [0; 16])).unwrap(), 5);
    assert_eq!(lab.status().host("a").unwrap().boots, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_first_process_dies_is_noticed() {
    let (lab, a, _b) = pair("").await;
    let first = rustix::process::Pid::from_raw(a.status().unwrap().pid.unwrap()).unwrap();
    rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
    lab.wait_until(LIMIT, |status| status.host("a").is_some_and(|host| host.state == HostState::Down)).await.unwrap();
    a.boot().await.unwrap();
    assert_eq!(output(&a, "echo alive").await, "alive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_host_stands_still_and_can_be_killed() {
    let (_lab, a, _b) = pair("").await;
    let counter = a.disk().unwrap().join("count");
    let script = format!("while :; do echo x >> {}; sleep 0.01; done", counter.display());
    let mut child = a.command("sh").unwrap().args(["-c", &script]).spawn().unwrap();
    let lines = || fs::read_to_string(&counter).unwrap_or_default().len();
    eventually("it counts", async || (lines() > 3).then_some(())).await;

    a.pause().await.unwrap();
    assert!(a.command("true").is_err());
    let before = lines();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(lines(), before);

    a.resume().await.unwrap();
    eventually("it counts again", async || (lines() > before).then_some(())).await;
    a.pause().await.unwrap();
    a.kill().await.unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(137));
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_that_make_no_sense_are_refused() {
    let lab = start(&node("only", "ams")).await;
    for (result, part) in [
        (lab.cut("only", "nobody").await, "no host"),
        (lab.cut("only", "only").await, "itself"),
        (lab.lose("only", "only", 101.0).await, "101"),
        (lab.host("only").unwrap().resume().await, "is up"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(matches!(lab.host("nobody"), Err(LabError::UnknownHost(_))));
}
