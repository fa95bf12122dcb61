//! A lab leaves nothing behind, however it ends; and the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::support::{PROGRAM, eventually, node, pair, require_root};

/// Whatever on this machine carries a lab's name: control groups, processes, mounts, interfaces.
fn remains(id: &str) -> Vec<String> {
    let name = format!("atl-{id}");
    let mut found = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in mounts.lines() {
        if line.contains(&name) {
            found.push(format!("mount {line}"));
        }
        let target = line.split(' ').nth(4).unwrap_or_default();
        if line.contains(" - cgroup") && Path::new(target).join(&name).exists() {
            found.push(format!("control group in {target}"));
        }
    }
    for process in fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()) {
        let of_lab = |file: &str| fs::read(process.join(file)).is_ok_and(|text| contains(&text, name.as_bytes()));
        if of_lab("cmdline") || of_lab("cgroup") {
            found.push(format!("process {}", process.display()));
        }
    }
    for file in [format!("/run/atoll-lab/{id}.json"), format!("/var/tmp/{name}")] {
        if Path::new(&file).exists() {
            found.push(file);
        }
    }
    found
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_lab_leaves_nothing() {
    let (lab, a, b) = pair("").await;
    let id = lab.status().id;
    let child = a.command("sleep").unwrap().arg("1000").spawn().unwrap();
    b.pause().await.unwrap();
    assert!(!remains(&id).is_empty());
    drop((lab, a, b));
    drop(child);
    eventually("nothing remains", async || remains(&id).is_empty().then_some(())).await;
}

struct Daemon {
    process: Child,
    folder: tempfile::TempDir,
    id: String,
}

impl Daemon {
    async fn start() -> Self {
        require_root();
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let world = folder.path().join("world.toml");
        fs::write(&world, format!("{}{}", node("a", "ams"), node("b", "nrt"))).unwrap();
        let process = Command::new(PROGRAM)
            .args(["run".as_ref(), world.as_os_str(), "--dir".as_ref(), folder.path().as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let ready = folder.path().join("ready");
        let read_id = async || fs::read_to_string(&ready).ok().filter(|id| id.len() == 8);
        let id = eventually("the lab is ready", read_id).await;
        Self { process, folder, id }
    }

    async fn tell(&self, words: &[&str]) -> (Option<i32>, String) {
        let (verb, rest) = words.split_first().unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg(verb).arg("--dir").arg(self.folder.path()).args(rest);
        let output = command.output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).trim().to_owned())
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("hosts/a/disk")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_drives_a_lab() {
    let mut daemon = Daemon::start().await;
    let exec = ["exec", "a", "--", "sh", "-c", "cat /proc/sys/kernel/hostname; exit 5"];
    assert_eq!(daemon.tell(&exec).await, (Some(5), "a".to_owned()));
    for words in [
        &["fault", "cut", "a", "b", "--one-way"][..],
        &["slow", "a", "b", "150"],
        &["loss", "a", "b", "1.5"],
        &["path", "a", "b", "--delay", "3ms", "--rate", "10mbit"],
        &["heal", "a", "b"],
        &["fault", "cut", "a", "--all"],
        &["heal"],
        &["pause", "a"],
        &["resume", "a"],
        &["steer", "withdraw", "a"],
        &["steer", "announce", "a"],
        &["kill", "a"],
        &["boot", "a"],
    ] {
        assert_eq!(daemon.tell(words).await, (Some(0), String::new()), "{words:?}");
    }
    let (code, told) = daemon.tell(&["kill", "nobody"]).await;
    assert!(code == Some(1) && told.contains("nobody"), "{told}");
    let (_, json) = daemon.tell(&["status", "--json"]).await;
    let status: atoll_lab::verb::Status = serde_json::from_str(&json).unwrap();
    assert_eq!(status.host("a").unwrap().boots, 2);

    let pid = rustix::process::Pid::from_raw(daemon.process.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(daemon.process.wait().await.unwrap().code(), Some(0));
    eventually("nothing remains", async || remains(&daemon.id).is_empty().then_some(())).await;
    assert!(daemon.disk().is_dir(), "a given folder is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn cleaning_takes_away_what_a_killed_lab_left_and_spares_the_living() {
    let mut killed = Daemon::start().await;
    let living = Daemon::start().await;
    assert_eq!(killed.tell(&["pause", "b"]).await.0, Some(0));
    killed.process.kill().await.unwrap();

    // Another test's lab that starts now cleans too; both may, and the result is the same.
    let cleaned = Command::new(PROGRAM).arg("clean").status().await.unwrap();
    assert!(cleaned.success());
    eventually("nothing remains", async || remains(&killed.id).is_empty().then_some(())).await;
    assert_eq!(living.tell(&["exec", "a", "--", "true"]).await, (Some(0), String::new()));
}
