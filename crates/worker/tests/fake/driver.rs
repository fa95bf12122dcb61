//! A driver whose machines are tasks on a runtime of their own, so that they survive the agent's.
//!
//! A machine's program: `serve <port>` listens and answers HTTP 200 `boot <n> count <k>`, `fail <port>`
//! answers 500, `exit <code>` ends, `stubborn` ignores signals but SIGKILL, `sleep` does nothing,
//! `nonsense` cannot be executed, `oom` is killed for memory. Each prints `ready` first.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use atoll_driver::{
    Adopted, Driver, DriverError, ExecOutput, ExecSpec, ExecStreams, Exit, MachineSpec, ProcessInfo, Running, Stats,
};
use atoll_model::MachineId;

use super::World;

pub struct FakeDriver(pub Arc<World>);

pub struct FakeMachine {
    id: MachineId,
    boot_id: String,
    program: Vec<String>,
    exit: watch::Sender<Option<Exit>>,
    paused: AtomicBool,
    requests: Arc<AtomicU32>,
}

/// Where fake machines run: not the runtime of any agent.
fn host() -> &'static tokio::runtime::Runtime {
    static HOST: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    HOST.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}

impl FakeMachine {
    pub fn end(&self, code: i32, signal: Option<i32>, oom_killed: bool) {
        self.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            if first {
                *exit = Some(Exit { code, signal, oom_killed, at_ms: 1_700_000_000_000, error: None });
            }
            first
        });
    }

    fn running(&self) -> Result<(), DriverError> {
        if self.ended() { Err(DriverError::NotRunning { machine: self.id }) } else { Ok(()) }
    }

    pub fn ended(&self) -> bool {
        self.exit.borrow().is_some()
    }
}

async fn run(machine: Arc<FakeMachine>, address: Ipv4Addr) {
    let argument = machine.program.get(1).cloned().unwrap_or_default();
    match machine.program[0].as_str() {
        "serve" | "fail" => serve(machine, address, argument.parse().unwrap()).await,
        "exit" => {
            tokio::time::sleep(Duration::from_millis(2)).await;
            machine.end(argument.parse().unwrap(), None, false);
        }
        "oom" => machine.end(137, Some(9), true),
        _ => std::future::pending().await,
    }
}

async fn serve(machine: Arc<FakeMachine>, address: Ipv4Addr, port: u16) {
    // The address may still be held by the run before, for a moment.
    let listener = loop {
        match tokio::net::TcpListener::bind((address, port)).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    let status = if machine.program[0] == "fail" { "500 Internal Server Error" } else { "200 OK" };
    while let Ok((mut stream, _)) = listener.accept().await {
        let machine = machine.clone();
        tokio::spawn(async move {
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                let count = machine.requests.fetch_add(1, Ordering::Relaxed) + 1;
                let body = format!("boot {} count {count}", machine.boot_id);
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                // The peer may be gone.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
    }
}

#[async_trait]
impl Driver for FakeDriver {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn start(&self, spec: &MachineSpec) -> Result<Arc<dyn Running>, DriverError> {
        let world = &self.0;
        assert!(spec.dir.is_dir(), "the machine's folder is missing");
        assert!(world.attached.lock().unwrap().contains_key(&spec.id), "started without a network");
        let unstartable = |reason: &str| DriverError::Unstartable { machine: spec.id, reason: reason.into() };
        if spec.process.args[0] == "nonsense" {
            return Err(unstartable("nonsense: no such program"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut machines = world.machines.lock().unwrap();
        if machines.get(&spec.id).is_some_and(|machine| !machine.ended()) {
            return Err(unstartable("it is running already"));
        }
        let log = spec.dir.join("log");
        std::fs::create_dir_all(&log).unwrap();
        std::fs::write(log.join("current.jsonl"), "{\"ts_ms\":1,\"stream\":\"stdout\",\"line\":\"ready\"}\n").unwrap();
        world.starts.fetch_add(1, Ordering::Relaxed);
        let machine = Arc::new(FakeMachine {
            id: spec.id,
            boot_id: spec.boot_id.clone(),
            program: spec.process.args.clone(),
            exit: watch::channel(None).0,
            paused: AtomicBool::new(false),
            requests: Arc::default(),
        });
        machines.insert(spec.id, machine.clone());
        world.cgroups.lock().unwrap().push(spec.cgroup.clone());
        let address = world.address(world.attached.lock().unwrap()[&spec.id].slot);
        let mut ended = machine.exit.subscribe();
        let body = run(machine.clone(), address);
        host().spawn(async move {
            tokio::select! {
                () = body => {}
                _ = ended.wait_for(Option::is_some) => {}
            }
        });
        Ok(machine)
    }

    async fn adopt(&self, id: MachineId, _dir: &Path) -> Result<Adopted, DriverError> {
        Ok(match self.0.machines.lock().unwrap().get(&id) {
            None => Adopted::Nothing,
            Some(machine) => match machine.exit.borrow().clone() {
                Some(exit) => Adopted::Exited(exit),
                None => Adopted::Running(machine.clone()),
            },
        })
    }

    async fn destroy(&self, id: MachineId, _dir: &Path, cgroup: &str) -> Result<(), DriverError> {
        if let Some(machine) = self.0.machines.lock().unwrap().remove(&id) {
            machine.end(137, Some(9), false);
        }
        self.0.cgroups.lock().unwrap().retain(|held| held != cgroup);
        Ok(())
    }
}

#[async_trait]
impl Running for FakeMachine {
    fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn pid(&self) -> u32 {
        1
    }

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.unwrap().clone();
        ended.unwrap()
    }

    async fn signal(&self, signal: i32) -> Result<(), DriverError> {
        self.running()?;
        // A frozen process hears nothing.
        let deaf = self.program[0] == "stubborn" || self.paused.load(Ordering::Relaxed);
        if !deaf || signal == 9 {
            self.end(0, None, false);
        }
        Ok(())
    }

    async fn kill(&self) -> Result<(), DriverError> {
        self.end(137, Some(9), false);
        Ok(())
    }

    async fn pause(&self) -> Result<(), DriverError> {
        self.running()?;
        self.paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn resume(&self) -> Result<(), DriverError> {
        self.running()?;
        self.paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn exec(&self, exec: ExecSpec) -> Result<ExecStreams, DriverError> {
        let (input, _) = tokio::sync::mpsc::channel(4);
        let (sender, output) = tokio::sync::mpsc::channel(4);
        let env = exec.process.env.get("KEY").cloned().unwrap_or_default();
        let text = format!("{} {env}", exec.process.args.join(" "));
        sender.try_send(ExecOutput::Stdout(text.into_bytes())).unwrap();
        sender.try_send(ExecOutput::Exit { code: 7, signal: None }).unwrap();
        Ok(ExecStreams { input, output })
    }

    async fn stats(&self) -> Result<Stats, DriverError> {
        Ok(Stats::default())
    }

    async fn processes(&self) -> Result<Vec<ProcessInfo>, DriverError> {
        Ok(vec![ProcessInfo {
            pid: 1,
            command: self.program.join(" "),
            directory: "/".into(),
            cpu: 0,
            rss: 1,
            running_for: 1,
        }])
    }
}
