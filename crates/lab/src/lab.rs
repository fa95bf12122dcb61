//! The lab as tests and demonstrations hold it.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::engine::{Engine, Message, Site, vm_folder};
use crate::error::{Attempt, LabError};
use crate::host::enter::Class;
use crate::premises::Premises;
use crate::relay::process::Relay;
use crate::sys;
use crate::verb::{HostState, HostStatus, Status, Verb};
use crate::vm::files::FILES_VARIABLE;
use crate::world::{Kind, World};

/// Names the `atoll-lab` program where it is not beside the running one.
pub const PROGRAM_VARIABLE: &str = "ATOLL_LAB_BIN";

/// Verbs that may wait for the engine.
const QUEUE: usize = 32;

/// How a lab is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where disks, logs and sockets go, kept at the end. Without it a folder in `/var/tmp` that is
    /// removed at the end.
    pub folder: Option<PathBuf>,
    /// The `atoll-lab` program, which runs in the lab's helper processes. Without it the one named by
    /// `ATOLL_LAB_BIN`, else the one beside the running program.
    pub program: Option<PathBuf>,
    /// Packages for hosts with `kind = "vm"`, unpacked by `worlds/fetch-vm.sh`. Without it the folder
    /// named by `ATOLL_LAB_VM`.
    pub vm_packages: Option<PathBuf>,
    /// Files and folders of this machine that such hosts have at the same paths, programs with their
    /// libraries.
    pub vm_files: Vec<PathBuf>,
}

/// A running world. Clones are handles of the same lab; dropping the last one ends everything in it.
#[derive(Debug, Clone)]
pub struct Lab {
    verbs: mpsc::Sender<Message>,
    status: watch::Receiver<Status>,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    engine: JoinHandle<()>,
    premises: Premises,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The premises, dropped next, end what the engine held.
        self.engine.abort();
    }
}

impl Lab {
    /// Boots every host of a world and connects them. Cleans up after dead labs first.
    ///
    /// # Errors
    /// If the caller is not root, the helper program is missing, or the machine refuses something;
    /// nothing is left behind then.
    pub async fn start(world: &World, options: &Options) -> Result<Self, LabError> {
        if !rustix::process::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        let program = find_program(options.program.as_deref())?;
        let mut premises = Premises::occupy(options.folder.as_deref())?;
        let relay = Relay::start(&program, world.hosts.len(), world.seed).await?;
        premises.note_relay(relay.pid)?;
        let site = Site {
            id: premises.id().to_owned(),
            program: program.clone(),
            folder: premises.folder().to_owned(),
            group: premises.group.clone(),
            vm_packages: options.vm_packages.clone().or_else(|| std::env::var_os(FILES_VARIABLE).map(PathBuf::from)),
            vm_files: options.vm_files.clone(),
        };
        let (publish, status) = watch::channel(Status::default());
        let engine = Engine::start(site, world.clone(), relay, publish).await?;
        let (verbs, queue) = mpsc::channel(QUEUE);
        let engine = tokio::spawn(engine.run(queue));
        Ok(Self { verbs, status, inner: Arc::new(Inner { program, engine, premises }) })
    }

    /// Does something to the world; returns once it is done.
    ///
    /// # Errors
    /// If a host is unknown or in another state, a number is out of range, or the machine refuses.
    pub async fn apply(&self, verb: Verb) -> Result<Status, LabError> {
        let (answer, done) = oneshot::channel();
        self.verbs.send((verb, answer)).await.map_err(|_| LabError::Ended)?;
        done.await.map_err(|_| LabError::Ended)?
    }

    /// The lab as it was after the last change.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The status, and every change of it; changes in quick succession may show as one.
    pub fn changes(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the status is as wanted.
    ///
    /// # Errors
    /// If it is not within the limit.
    pub async fn wait_until(&self, limit: Duration, wanted: impl FnMut(&Status) -> bool) -> Result<Status, LabError> {
        let mut status = self.status.clone();
        let waited = tokio::time::timeout(limit, status.wait_for(wanted)).await;
        match waited {
            Ok(Ok(status)) => Ok(status.clone()),
            Ok(Err(_)) => Err(LabError::Ended),
            Err(_) => Err(LabError::Invalid(format!("the lab did not become as wanted within {limit:?}"))),
        }
    }

    /// The folder of disks, logs and sockets.
    pub fn folder(&self) -> &FilePath {
        self.inner.premises.folder()
    }

    /// A host by its name in the world.
    pub fn host(&self, name: &str) -> Result<Host, LabError> {
        let known = self.status.borrow().host(name).is_some();
        let lab = self.clone();
        known.then(|| Host { lab, name: name.to_owned() }).ok_or_else(|| LabError::UnknownHost(name.to_owned()))
    }

    /// The hosts through which a packet goes from one host to an address, both ends included, as the
    /// kernels on the way have it.
    ///
    /// # Errors
    /// If there is no way.
    pub async fn trace(&self, from: &str, to: Ipv4Addr) -> Result<Vec<String>, LabError> {
        crate::trace::trace(&self.inner.program, &self.status(), from, to).await
    }

    /// Nothing passes between two hosts any more, either way.
    pub async fn cut(&self, a: &str, b: &str) -> Result<(), LabError> {
        self.done(Verb::Cut { a: a.into(), b: b.into(), one_way: false }).await
    }

    /// Nothing passes from one host to another any more; the way back stays.
    pub async fn cut_one_way(&self, from: &str, to: &str) -> Result<(), LabError> {
        self.done(Verb::Cut { a: from.into(), b: to.into(), one_way: true }).await
    }

    /// Cuts a host off from everybody.
    pub async fn isolate(&self, host: &str) -> Result<(), LabError> {
        self.done(Verb::Isolate { host: host.into() }).await
    }

    /// Adds to the delay between two hosts, each way.
    pub async fn slow(&self, a: &str, b: &str, extra: Duration) -> Result<(), LabError> {
        let extra_ms = extra.as_secs_f64() * 1e3;
        self.done(Verb::Slow { a: a.into(), b: b.into(), extra_ms, one_way: false }).await
    }

    /// Loses this many percent between two hosts, each way.
    pub async fn lose(&self, a: &str, b: &str, percent: f64) -> Result<(), LabError> {
        self.done(Verb::Lose { a: a.into(), b: b.into(), percent, one_way: false }).await
    }

    /// Cuts and heals the link of two hosts in turn, each for this long, until it is healed.
    pub async fn flap(&self, a: &str, b: &str, every: Duration) -> Result<(), LabError> {
        self.done(Verb::Flap { a: a.into(), b: b.into(), every }).await
    }

    /// Ends the faults between two hosts.
    pub async fn heal(&self, a: &str, b: &str) -> Result<(), LabError> {
        self.done(Verb::Heal { a: Some(a.into()), b: Some(b.into()) }).await
    }

    /// Ends the faults between a host and everybody.
    pub async fn heal_host(&self, host: &str) -> Result<(), LabError> {
        self.done(Verb::Heal { a: Some(host.into()), b: None }).await
    }

    /// Ends every fault of the network.
    pub async fn heal_all(&self) -> Result<(), LabError> {
        self.done(Verb::Heal { a: None, b: None }).await
    }

    async fn done(&self, verb: Verb) -> Result<(), LabError> {
        self.apply(verb).await.map(drop)
    }
}

/// A host of a running lab.
#[derive(Debug, Clone)]
pub struct Host {
    lab: Lab,
    name: String,
}

impl Host {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host as it was after the last change.
    ///
    /// # Errors
    /// If the lab has ended.
    pub fn status(&self) -> Result<HostStatus, LabError> {
        self.lab.status.borrow().host(&self.name).cloned().ok_or(LabError::Ended)
    }

    pub fn ipv4(&self) -> Result<Ipv4Addr, LabError> {
        Ok(self.status()?.ipv4)
    }

    pub fn ipv6(&self) -> Result<Ipv6Addr, LabError> {
        Ok(self.status()?.ipv6)
    }

    /// A folder that outlives the host's power, at the same path within it.
    pub fn disk(&self) -> Result<PathBuf, LabError> {
        Ok(self.status()?.disk)
    }

    /// Opens a log of the host for appending, to be given to a program as its output.
    pub fn log(&self, name: &str) -> Result<File, LabError> {
        let file = self.status()?.logs.join(format!("{name}.log"));
        File::options().create(true).append(true).open(&file).attempting(|| format!("open {}", file.display()))
    }

    /// A program to be run in the host: an ordinary command, to which arguments, environment, folder
    /// and streams can be added before it is started. The exit code is the program's, 128 and the
    /// signal's number if a signal killed it. The child's process id is that of a companion outside,
    /// which passes signals on; killing it kills the program, but not what the program has started.
    ///
    /// In a virtual machine the program has no input and none of the companion's environment, signals
    /// are not passed on, and killing the companion kills the program's process group.
    ///
    /// # Errors
    /// If the host is not up.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command, LabError> {
        self.command_of(Class::Ordinary, program)
    }

    /// The same for a program that may schedule itself in real time, as far as this machine allows it.
    ///
    /// # Errors
    /// If the host is not up.
    pub fn real_time_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command, LabError> {
        self.command_of(Class::RealTime, program)
    }

    fn command_of(&self, class: Class, program: impl AsRef<std::ffi::OsStr>) -> Result<Command, LabError> {
        let status = self.status()?;
        let pid = self.first_process(&status)?.as_raw_nonzero();
        let mut command = Command::new(&self.lab.inner.program);
        if status.kind == Kind::Vm {
            command.args(["internal", "session"]).arg(vm_folder(&status)).arg("--").arg(program);
            return Ok(command);
        }
        command.args(["internal", "enter"]);
        if class == Class::RealTime {
            command.arg("--real-time");
        }
        command.arg(pid.to_string()).arg(status.group).arg("--").arg(program);
        Ok(command)
    }

    /// Runs code in the host's network namespace, on a thread of its own. Sockets that it makes stay in
    /// the host's network wherever they are used afterwards, so that a test or a load generator can
    /// speak from a host without a program there.
    ///
    /// # Errors
    /// If the host is not up or is a virtual machine; what the code itself returns is given as it is.
    pub async fn in_network<T: Send + 'static>(
        &self,
        code: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LabError> {
        let status = self.status()?;
        if status.kind == Kind::Vm {
            let why = format!("{} is a VM: its network is its own kernel's", self.name);
            return Err(LabError::Invalid(why));
        }
        let first = self.first_process(&status)?;
        let entering = || format!("enter the network of {}", self.name);
        let process = rustix::process::pidfd_open(first, PidfdFlags::empty()).attempting(entering)?;
        let (send, result) = oneshot::channel();
        // A namespace is a thread's own, so that this one must end with the code.
        std::thread::spawn(move || {
            let result = sys::setns(&process, libc::CLONE_NEWNET).map(|()| code());
            // The one who asked may have gone.
            drop(send.send(result));
        });
        result.await.map_err(|_| LabError::Ended)?.attempting(entering)
    }

    fn first_process(&self, status: &HostStatus) -> Result<Pid, LabError> {
        match (status.state, status.pid.and_then(Pid::from_raw)) {
            (HostState::Up, Some(pid)) => Ok(pid),
            (state, _) => Err(LabError::WrongState { host: self.name.clone(), state: state.as_str() }),
        }
    }

    /// Cuts the power: everything in the host is gone but its disk.
    pub async fn kill(&self) -> Result<(), LabError> {
        self.lab.done(Verb::Kill { host: self.name.clone() }).await
    }

    /// Boots it again after a power cut, with the same disk.
    pub async fn boot(&self) -> Result<(), LabError> {
        self.lab.done(Verb::Boot { host: self.name.clone() }).await
    }

    /// Stops every process in it where it stands.
    pub async fn pause(&self) -> Result<(), LabError> {
        self.lab.done(Verb::Pause { host: self.name.clone() }).await
    }

    pub async fn resume(&self) -> Result<(), LabError> {
        self.lab.done(Verb::Resume { host: self.name.clone() }).await
    }

    /// Keeps this many threads of it computing for nothing; 0 ends it.
    pub async fn overload(&self, threads: usize) -> Result<(), LabError> {
        self.lab.done(Verb::Overload { host: self.name.clone(), threads }).await
    }

    /// Steers no client to this node any more.
    pub async fn withdraw(&self) -> Result<(), LabError> {
        self.lab.done(Verb::Withdraw { host: self.name.clone() }).await
    }

    pub async fn announce(&self) -> Result<(), LabError> {
        self.lab.done(Verb::Announce { host: self.name.clone() }).await
    }
}

fn find_program(given: Option<&FilePath>) -> Result<PathBuf, LabError> {
    let named = given.map(FilePath::to_owned).or_else(|| std::env::var_os(PROGRAM_VARIABLE).map(PathBuf::from));
    if let Some(program) = named {
        return program.canonicalize().attempting(|| format!("find {}", program.display()));
    }
    let running = std::env::current_exe().attempting(|| "find the running program".to_owned())?;
    // Test programs live one folder below the others.
    (running.ancestors().skip(1).take(2))
        .map(|folder| folder.join("atoll-lab"))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| LabError::NoProgram { beside: running.display().to_string() })
}
