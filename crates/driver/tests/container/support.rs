//! A small world for container tests: an image made of busybox, a network namespace, a folder for
//! machines, and a machine to describe in one line. Everything made is removed on drop.

use std::fs;
use std::future::Future;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_driver::{
    ContainerDriver, Driver, ExecInput, ExecOutput, ExecSpec, ExecStreams, Exit, MachineSpec, ProcessSpec, Running,
};
use atoll_model::MachineId;
use atoll_model::guest::Guest;
use atoll_signals::with_causes;

pub const BUSYBOX: &str = "/bin/busybox";
pub const LIMIT: Duration = Duration::from_secs(30);

static MACHINES: AtomicU32 = AtomicU32::new(0);

pub struct World {
    pub driver: ContainerDriver,
    pub dir: tempfile::TempDir,
    network: fs::File,
    /// Removed when the world ends.
    cgroup_parent: String,
}

impl World {
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make namespaces and must run as root");
        assert!(Path::new(BUSYBOX).exists(), "these tests need {BUSYBOX}: apt-get install busybox-static");
        let dir = tempfile::tempdir().unwrap();
        make_image(&dir.path().join("image"));
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        Self {
            driver: driver(),
            network: new_network(),
            cgroup_parent: format!("atoll-test-{}-{number}", std::process::id()),
            dir,
        }
    }

    pub fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// A machine that runs `script` in a shell.
    pub fn machine(&self, script: &str) -> MachineSpec {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        let id = MachineId::from_random(u64::from(since.subsec_nanos()) << 20 | u64::from(number));
        MachineSpec {
            id,
            dir: self.dir.path().join(format!("machine-{id}")),
            layers: vec![self.image()],
            process: ProcessSpec {
                args: vec!["sh".into(), "-c".into(), script.into()],
                working_dir: "/".into(),
                ..ProcessSpec::default()
            },
            hostname: id.to_string(),
            hosts: vec![("127.0.0.1".parse().unwrap(), vec!["localhost".into()])],
            resolv_conf: "nameserver 127.0.0.1\n".into(),
            files: Vec::new(),
            network_namespace: format!("/proc/{}/fd/{}", std::process::id(), self.network.as_raw_fd()).into(),
            guest: Guest::DEFAULT,
            pids_limit: 200,
            cgroup: format!("{}/machine-{id}", self.cgroup_parent),
            boot_id: format!("boot-{number}"),
        }
    }

    pub async fn start(&self, spec: &MachineSpec) -> Arc<dyn Running> {
        within("a start", self.driver.start(spec)).await.unwrap_or_else(|error| panic!("{}", with_causes(&error)))
    }

    /// Runs a machine to its end and removes it; returns its exit and what it printed.
    pub async fn run(&self, spec: &MachineSpec) -> (Exit, String) {
        let machine = self.start(spec).await;
        let exit = within("an exit", machine.wait()).await;
        let output = log(spec);
        self.destroy(spec).await;
        (exit, output)
    }

    /// What a script prints in a machine of its own.
    pub async fn output(&self, script: &str) -> String {
        let (exit, output) = self.run(&self.machine(script)).await;
        assert_eq!((exit.code, exit.error), (0, None), "{output}");
        output
    }

    pub async fn destroy(&self, spec: &MachineSpec) {
        let destroyed = within("a removal", self.driver.destroy(spec.id, &spec.dir, &spec.cgroup)).await;
        destroyed.unwrap_or_else(|error| panic!("{}", with_causes(&error)));
        nothing_is_left_of(spec).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for root in cgroup_roots() {
            let parent = root.join(&self.cgroup_parent);
            // A failed test may have left machines; its message matters more than theirs.
            for machine in fs::read_dir(&parent).into_iter().flatten().flatten() {
                if machine.path().is_dir() {
                    let procs = fs::read_to_string(machine.path().join("cgroup.procs")).unwrap_or_default();
                    for pid in procs.lines().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                }
            }
            let _ = fs::remove_dir(parent);
        }
    }
}

/// All tests share the programs: a program that is being written while another test forks could not
/// be executed.
fn driver() -> ContainerDriver {
    static INSTALL: Mutex<()> = Mutex::new(());
    let _alone = INSTALL.lock().unwrap();
    ContainerDriver::new(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap()
}

fn make_image(image: &Path) {
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(image.join(folder)).unwrap();
    }
    fs::copy(BUSYBOX, image.join("bin/busybox")).unwrap();
    let list = Command::new(BUSYBOX).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(list).unwrap().lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", image.join("bin").join(applet)).unwrap();
    }
    fs::write(image.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/tmp:/bin/sh\n").unwrap();
    fs::write(image.join("etc/group"), "root:x:0:\nwww:x:34:\nlogs:x:40:web\n").unwrap();
}

/// A namespace held by a descriptor of this process.
fn new_network() -> fs::File {
    let make = || {
        // SAFETY: only this thread, which ends at once, is moved.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        fs::File::open("/proc/thread-self/ns/net").unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

pub fn cgroup_roots() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    ["memory", "cpu", "cpuacct", "pids", "freezer"].map(|controller| root.join(controller)).to_vec()
}

/// Mounts, control groups and processes of a machine that are still there.
fn left_of(spec: &MachineSpec) -> Vec<String> {
    let dir = spec.dir.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(dir)).map(|line| format!("mount {line}"));
    let groups = cgroup_roots().into_iter().map(|root| root.join(&spec.cgroup)).filter(|path| path.exists());
    let processes = processes_with(dir).into_iter().map(|pid| format!("process {pid}"));
    let files = ["rw", "shim.sock"].into_iter().map(|name| spec.dir.join(name)).filter(|path| path.exists());
    mounts.chain(groups.chain(files).map(|path| path.display().to_string())).chain(processes).collect()
}

pub async fn nothing_is_left_of(spec: &MachineSpec) {
    // A shim that has done its work, or whose start was given up, ends by itself a moment later.
    eventually("the end of all processes", || processes_with(spec.dir.to_str().unwrap()).is_empty()).await;
    assert_eq!(left_of(spec), Vec::<String>::new());
}

/// Host processes whose command line holds `text`.
pub fn processes_with(text: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        *pid != std::process::id()
            && fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(text))
    })
    .collect()
}

/// The pid of a machine's shim.
pub fn shim_pid(spec: &MachineSpec) -> u32 {
    let pids = processes_with(&format!("run {}", spec.dir.display()));
    assert_eq!(pids.len(), 1, "shims of {}: {pids:?}", spec.dir.display());
    pids[0]
}

pub fn kill(pid: u32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Lines of the machine's log, without their times.
pub fn log(spec: &MachineSpec) -> String {
    let text = fs::read_to_string(spec.dir.join("log/current.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| format!("{}\n", line["line"].as_str().unwrap())).collect()
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} took longer than {LIMIT:?}"))
}

/// Asks until the answer is yes.
pub async fn eventually(what: &str, mut answer: impl FnMut() -> bool) {
    within(what, async {
        while !answer() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub fn command(args: &[&str]) -> ExecSpec {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let process = ProcessSpec { args, working_dir: "/".into(), ..ProcessSpec::default() };
    ExecSpec { process, terminal: None }
}

/// What a command printed on both outputs, and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Finished {
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
}

pub async fn finish(mut streams: ExecStreams) -> Finished {
    let mut finished = Finished::default();
    while let Some(output) = within("a command's output", streams.output.recv()).await {
        match output {
            ExecOutput::Stdout(bytes) => finished.stdout.push_str(&String::from_utf8_lossy(&bytes)),
            ExecOutput::Stderr(bytes) => finished.stderr.push_str(&String::from_utf8_lossy(&bytes)),
            ExecOutput::Exit { code, .. } => finished.code = Some(code),
        }
    }
    finished
}

pub async fn exec(machine: &Arc<dyn Running>, args: &[&str]) -> Finished {
    let streams = within("a command's start", machine.exec(command(args))).await.unwrap();
    streams.input.send(ExecInput::CloseStdin).await.unwrap();
    finish(streams).await
}
