//! One server of a platform on trial: the program in a lab host, and what can be done to its processes.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tokio::process::{Child, Command};

use atoll_lab::Host;

use crate::programs;
use crate::wait::until;

/// From the program's start until it serves, on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Until a killed process has been started again.
const RESTART_LIMIT: Duration = Duration::from_secs(20);
/// Where apps are served.
pub const APP_DOMAIN: &str = "apps.test";

/// The ready file, as far as trials need it.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    pub node: String,
    pub region: String,
    pub ca: PathBuf,
    pub token_file: Option<PathBuf>,
}

/// A process of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Supervisor,
    Control,
    Worker,
    Edge,
    Net,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Supervisor => "supervisor",
            Self::Control => "control",
            Self::Worker => "worker",
            Self::Edge => "edge",
            Self::Net => "net",
        })
    }
}

/// How a server comes to be.
#[derive(Clone, Debug)]
pub enum Origin {
    First,
    /// Control's node address and a token.
    Joins {
        control: SocketAddr,
        token: String,
    },
    /// It has joined before, and control's address is in its state.
    HasJoined,
}

#[derive(Debug)]
pub struct Node {
    host: Host,
    region: String,
    arguments: Vec<String>,
    supervisor: Option<Child>,
}

impl Node {
    /// A server that does not run yet. `region` is also its place in the world, unless a trial lies.
    pub fn new(host: Host, region: &str) -> Self {
        Self { host, region: region.to_owned(), arguments: Vec::new(), supervisor: None }
    }

    /// Gives the program these arguments too.
    pub fn with_arguments(self, arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(), ..self }
    }

    /// Gives the program these arguments instead from its next start on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    }

    pub fn name(&self) -> &str {
        self.host.name()
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The state folder: the same path within the host and outside.
    pub fn state(&self) -> anyhow::Result<PathBuf> {
        Ok(self.host.disk()?.join("state"))
    }

    /// Where a path of the host is found from outside, also below what is mounted there alone.
    pub fn seen_from_outside(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let first = self.host.status()?.pid.with_context(|| format!("{} is down", self.name()))?;
        let below_root = path.strip_prefix("/").with_context(|| format!("{} is relative", path.display()))?;
        Ok(Path::new("/proc").join(first.to_string()).join("root").join(below_root))
    }

    /// An address of this server's own, past the steering.
    pub fn address(&self, port: u16) -> anyhow::Result<SocketAddr> {
        Ok(SocketAddr::new(self.host.ipv4()?.into(), port))
    }

    /// The command that starts this server.
    pub fn command(&self, origin: &Origin) -> anyhow::Result<Command> {
        let mut command = self.host.command(programs::atoll()?)?;
        match origin {
            Origin::First => {
                command.args(["up", "--api", "0.0.0.0:4280", "--api-plain", "--app-domain", APP_DOMAIN]);
            }
            Origin::Joins { control, token } => {
                command.args(["join", &control.to_string(), "--token", token]);
            }
            Origin::HasJoined => {
                command.arg("up");
            }
        }
        command.args(["--region", &self.region, "--name", self.name()]);
        command.arg("--advertise").arg(self.host.ipv4()?.to_string());
        command.arg("--state").arg(self.state()?);
        command.arg("--ready-file").arg(self.ready_file()?).args(&self.arguments);
        Ok(command)
    }

    /// Starts the server and waits until it serves.
    ///
    /// # Errors
    /// With the end of its log, if it ends or takes too long.
    pub async fn start(&mut self, origin: &Origin) -> anyhow::Result<Ready> {
        ensure!(self.supervisor.is_none(), "{} runs already", self.name());
        let ready_file = self.seen_from_outside(&self.ready_file()?)?;
        // A file of an earlier start must not be taken for this one's.
        if ready_file.exists() {
            std::fs::remove_file(&ready_file)?;
        }
        let log = self.host.log("atoll")?;
        let mut command = self.command(origin)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let supervisor = self.supervisor.insert(command.spawn()?);
        let began = std::time::Instant::now();
        loop {
            if let Ok(text) = std::fs::read(&ready_file) {
                return serde_json::from_slice(&text).context("the ready file cannot be read");
            }
            if let Some(status) = supervisor.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.host.name(), self.log_end());
            }
            if began.elapsed() > READY_LIMIT {
                bail!("{} does not serve after {READY_LIMIT:?}:\n{}", self.host.name(), self.log_end());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The process id of a role, as the host numbers it.
    pub fn pid(&self, role: Role) -> anyhow::Result<u32> {
        let file = self.seen_from_outside(&self.state()?.join("run").join(format!("{role}.pid")))?;
        let text = std::fs::read_to_string(&file).with_context(|| format!("no {role} has run on {}", self.name()))?;
        text.trim().parse().with_context(|| format!("{} holds {text:?}", file.display()))
    }

    /// Kills a process with SIGKILL; gives the id it had.
    pub async fn kill(&self, role: Role) -> anyhow::Result<u32> {
        let pid = self.pid(role)?;
        self.signal(pid, "KILL").await?;
        Ok(pid)
    }

    /// Sends a signal, such as `STOP`, to a process by the host's numbering.
    pub async fn signal(&self, pid: u32, signal: &str) -> anyhow::Result<()> {
        let output = self.run("kill", &["-s", signal, &pid.to_string()]).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot send {signal} to process {pid} of {}: {said}", self.name());
        Ok(())
    }

    /// The shim of a machine that runs here.
    pub async fn shim(&self, machine: &str) -> anyhow::Result<u32> {
        // A shim works in its machine's folder; its name ends in its build's.
        let script = r#"for p in /proc/[0-9]*; do
            case "$(cat $p/comm) $(readlink $p/cwd)" in atoll-shim*/"$0") echo "${p#/proc/}";; esac
        done 2>/dev/null | head -n 1"#;
        self.found(script, machine, "shim").await
    }

    /// The example app's process in a machine that runs here.
    pub async fn app_process(&self, machine: &str) -> anyhow::Result<u32> {
        let script = r#"for p in /proc/[0-9]*; do
            [ "$(cat $p/comm)" = hello ] && tr '\0' '\n' < $p/environ | grep -qx "FLY_MACHINE_ID=$0" && echo "${p#/proc/}"
        done 2>/dev/null | head -n 1"#;
        self.found(script, machine, "process").await
    }

    /// Runs a program of the host in the network of a machine that runs here.
    pub async fn in_machine(&self, machine: &str, program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command_in_machine(machine, program, arguments)?.stdin(Stdio::null()).output().await?)
    }

    /// The same, to be started.
    pub fn command_in_machine(&self, machine: &str, program: &str, arguments: &[&str]) -> anyhow::Result<Command> {
        let script = r#"exec nsenter --net="$(ls -d /run/netns/*-"$0")" "$@""#;
        let mut command = self.host.command("sh")?;
        command.args(["-c", script, machine, program]).args(arguments);
        Ok(command)
    }

    async fn found(&self, script: &str, machine: &str, what: &str) -> anyhow::Result<u32> {
        let output = self.run("sh", &["-c", script, machine]).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().with_context(|| format!("machine {machine} has no {what} on {}", self.name()))
    }

    /// Waits until another process than `old` has the role; gives its id.
    pub async fn replaced(&self, role: Role, old: u32) -> anyhow::Result<u32> {
        let (new, _) = until(&format!("a new {role} on {}", self.name()), RESTART_LIMIT, async || {
            let pid = self.pid(role)?;
            ensure!(pid != old, "still process {old}");
            Ok(pid)
        })
        .await?;
        Ok(new)
    }

    /// Kills the supervisor alone, and forgets it so that the server can be started again.
    pub async fn kill_supervisor(&mut self) -> anyhow::Result<()> {
        self.kill(Role::Supervisor).await?;
        self.supervisor_ended().await
    }

    /// Asks the whole server to end, and waits until it has. Its machines stay.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        self.signal(self.pid(Role::Supervisor)?, "TERM").await?;
        self.supervisor_ended().await
    }

    /// Cuts the host's power; the server can be started again once the host is booted.
    pub async fn cut_power(&mut self) -> anyhow::Result<()> {
        self.host.kill().await?;
        self.supervisor_ended().await
    }

    async fn supervisor_ended(&mut self) -> anyhow::Result<()> {
        if let Some(mut supervisor) = self.supervisor.take() {
            supervisor.wait().await?;
        }
        Ok(())
    }

    /// Cuts the host's power and boots it: every process is gone, the disk stays. The server is not
    /// started.
    pub async fn lose_power(&mut self) -> anyhow::Result<()> {
        self.host.kill().await?;
        if let Some(mut supervisor) = self.supervisor.take() {
            supervisor.wait().await?;
        }
        Ok(self.host.boot().await?)
    }

    /// Runs a program in the host to its end.
    pub async fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.host.command(program.as_ref())?;
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        Ok(command.output().await?)
    }

    /// How many processes of a program run in the host, machines' included.
    pub async fn processes(&self, program: &str) -> anyhow::Result<usize> {
        let script = format!("cat /proc/[0-9]*/comm 2>/dev/null | grep -cx {program} || true");
        let output = self.run("sh", &["-c", &script]).await?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
    }

    /// What all processes of the first server say of themselves, asked at its API.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let token = std::fs::read_to_string(self.state()?.join("root.token"))?;
        let header = format!("Authorization: Bearer {}", token.trim());
        let output = self.run("curl", &["-sSf", "-H", &header, "http://127.0.0.1:4280/metrics"]).await?;
        ensure!(output.status.success(), "no metrics: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A figure of one process's own, such as `atoll_mesh_resumption_tickets`, with its labels in their order.
    pub async fn metric(&self, role: Role, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<u64> {
        let socket = self.state()?.join(format!("run/{role}.metrics"));
        let url = format!("http://{role}/metrics");
        let output = self.run("curl", &["-sSf", "--unix-socket", &socket.display().to_string(), &url]).await?;
        ensure!(output.status.success(), "no metrics: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let labels: String = labels.iter().map(|(name, value)| format!(",{name}=\"{value}\"")).collect();
        let figure = format!("{name}{{process=\"{role}\"{labels}}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&figure));
        let value: f64 = value.with_context(|| format!("no {figure}among\n{text}"))?.parse()?;
        Ok(value as u64)
    }

    /// The edge's access log; empty before the first request.
    pub fn access_log(&self) -> anyhow::Result<String> {
        let file = self.state()?.join("edge/access.log");
        match std::fs::read_to_string(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            read => read.with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// The last lines of the server's log.
    pub fn log_end(&self) -> String {
        let file = self.host.status().map(|status| status.logs.join("atoll.log"));
        let text = file.ok().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn ready_file(&self) -> anyhow::Result<PathBuf> {
        Ok(self.host.disk()?.join("ready.json"))
    }
}
