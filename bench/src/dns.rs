//! What a question costs: the same names and questions at our server of public zones and at Knot, one
//! thread each; and how soon a machine has the answer about a neighbour.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use atoll_trial::wait::until;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::figure::{Figure, Figures, Samples};

/// Names the server, an example of its crate.
const PROGRAM_VARIABLE: &str = "ATOLL_DNS_AUTHORITY";
const NAMES: u32 = 100_000;
/// Runs of each server, in turns.
const ROUNDS: usize = 3;
/// Seconds of one run.
const SECONDS: u32 = 6;
const PRIVATE_QUESTIONS: u32 = 5_000;
const LIMIT: Duration = Duration::from_secs(30);

/// What one or more runs used and gave.
#[derive(Clone, Copy, Default)]
struct Spent {
    cpu_s: f64,
    answers: f64,
    seconds: f64,
}

impl Spent {
    fn cpu_s_per_100k(&self) -> f64 {
        self.cpu_s / self.answers * 1e5
    }
}

pub async fn run() -> anyhow::Result<Figures> {
    let folder = TempDir::new()?;
    let questions = questions(folder.path())?;
    let (own, public, private) = own_server().await?;
    let (knot, knot_address) = knot(folder.path()).await?;
    let (mut ours, mut theirs) = (Spent::default(), Spent::default());
    for _ in 0..ROUNDS {
        measure(&own, public, &questions, &mut ours).await?;
        measure(&knot, knot_address, &questions, &mut theirs).await?;
    }
    let private = tokio::task::spawn_blocking(move || private_answers(private)).await??;
    let cpu = Figure::new(ours.cpu_s_per_100k(), "s").held_to(2.5, 1.5).against(theirs.cpu_s_per_100k());
    Ok(vec![
        ("authoritative_cpu_s_per_100k", cpu),
        ("qps", Figure::new(ours.answers / ours.seconds, "1/s")),
        ("knot_qps", Figure::new(theirs.answers / theirs.seconds, "1/s")),
        ("names", Figure::new(f64::from(NAMES), "names")),
        ("internal_p99_ms", Figure::new(private.p99(), "ms")),
    ])
}

/// Every name once, in an order that no cache of neighbours helps with.
fn questions(folder: &Path) -> anyhow::Result<PathBuf> {
    let file = folder.join("questions");
    let names = (0..u64::from(NAMES)).map(|number| number * 7919 % u64::from(NAMES));
    let text: String = names.map(|number| format!("name{number}.bench.test A\n")).collect();
    std::fs::write(&file, text)?;
    Ok(file)
}

async fn own_server() -> anyhow::Result<(Child, SocketAddr, SocketAddr)> {
    let program = std::env::var_os(PROGRAM_VARIABLE).with_context(|| format!("{PROGRAM_VARIABLE} is not set"))?;
    let mut command = Command::new(program);
    // It ends with its input.
    command.arg(NAMES.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("the server cannot be started")?;
    let output = child.stdout.take().context("the server has no output")?;
    let line = BufReader::new(output).lines().next_line().await?.context("the server said nothing")?;
    let (public, private) = line.split_once(' ').context("the server did not say where it is")?;
    Ok((child, public.parse()?, private.parse()?))
}

/// Knot with the same names, from a zone file.
async fn knot(folder: &Path) -> anyhow::Result<(Child, SocketAddr)> {
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let place = folder.display();
    let mut zone =
        "$ORIGIN bench.test.\n$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n".to_owned();
    for number in 0..NAMES {
        let [_, a, b, c] = number.to_be_bytes();
        zone.push_str(&format!("name{number} A 10.{a}.{b}.{c}\n"));
    }
    std::fs::write(folder.join("bench.test.zone"), zone)?;
    let configuration = format!(
        "server:\n  rundir: {place}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
         background-workers: 1\ndatabase:\n  storage: {place}\nzone:\n  - domain: bench.test\n    storage: {place}\n"
    );
    let file = folder.join("knot.conf");
    std::fs::write(&file, configuration)?;
    let mut command = Command::new("/usr/sbin/knotd");
    command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().context("Knot cannot be started")?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    until("Knot has loaded the zone", LIMIT, async || {
        tokio::task::spawn_blocking(move || ask(address, "name7.bench.test", 1)).await??;
        Ok(())
    })
    .await?;
    Ok((child, address))
}

/// Lets dnsperf ask a server for a while.
async fn measure(server: &Child, address: SocketAddr, questions: &Path, spent: &mut Spent) -> anyhow::Result<()> {
    let pid = server.id().context("the server has ended")?;
    let before = cpu_s(pid)?;
    let mut command = Command::new("dnsperf");
    command.args(["-s", &address.ip().to_string(), "-p", &address.port().to_string(), "-l", &SECONDS.to_string()]);
    let output = command.arg("-d").arg(questions).output().await.context("cannot run dnsperf")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let field = |name: &str| -> anyhow::Result<f64> {
        let line = printed.lines().find_map(|line| line.trim().strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("dnsperf said no {name:?}: {printed}"))
    };
    let (sent, completed) = (field("Queries sent:")?, field("Queries completed:")?);
    ensure!(completed > 0.99 * sent, "{completed} of {sent} questions were answered");
    ensure!(printed.contains("NOERROR") && !printed.contains("NXDOMAIN"), "not every name is there: {printed}");
    spent.cpu_s += cpu_s(pid)? - before;
    spent.answers += completed;
    spent.seconds += field("Run time (s):")?;
    Ok(())
}

/// What a process's threads have used, in user and kernel mode.
fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let file = task?.path().join("schedstat");
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let used = text.split_whitespace().next().and_then(|field| field.parse::<f64>().ok());
        nanoseconds += used.with_context(|| format!("{} says no time", file.display()))?;
    }
    Ok(nanoseconds / 1e9)
}

/// How long each of many questions about neighbours took, one after another, in milliseconds.
fn private_answers(server: SocketAddr) -> anyhow::Result<Samples> {
    let socket = connected(server)?;
    (0..PRIVATE_QUESTIONS)
        .map(|number| {
            let name = format!("name{}.internal", number * 7919 % NAMES);
            let began = Instant::now();
            exchange(&socket, &name, 28)?;
            Ok(began.elapsed().as_secs_f64() * 1e3)
        })
        .collect()
}

fn connected(server: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(server)?;
    Ok(socket)
}

fn ask(server: SocketAddr, name: &str, kind: u16) -> anyhow::Result<()> {
    exchange(&connected(server)?, name, kind)
}

/// One question, which must have an answer with a record.
fn exchange(socket: &UdpSocket, name: &str, kind: u16) -> anyhow::Result<()> {
    let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len())?);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend([kind.to_be_bytes(), [0, 1]].concat());
    socket.send(&message)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    ensure!(length > message.len() && answer[7] > 0, "{name} was not found");
    Ok(())
}
