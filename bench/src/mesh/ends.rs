//! Two namespaces, the cable between them, and the programs that make a tunnel over it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use atoll_mesh::PrivateKey;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PORT: u16 = 51820;
const PATIENCE: Duration = Duration::from_secs(10);
/// In which the kernel tells a process's times, on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    Ours,
    Device,
    WireguardGo,
}

impl Program {
    pub const ALL: [Self; 3] = [Self::Ours, Self::Device, Self::WireguardGo];

    fn path(self) -> anyhow::Result<PathBuf> {
        let variable = match self {
            Self::Ours => "ATOLL_MESH_TUNNEL",
            Self::Device => "ATOLL_BORINGTUN_DEVICE",
            Self::WireguardGo => return Ok("wireguard-go".into()),
        };
        std::env::var_os(variable).map(PathBuf::from).with_context(|| format!("{variable} names no program"))
    }
}

/// A namespace by name; deleted when dropped.
struct Namespace(String);

impl Namespace {
    fn new(end: &str) -> anyhow::Result<Self> {
        let name = format!("atoll-bench-{}-{end}", std::process::id());
        ip(&format!("netns add {name}"))?;
        Ok(Self(name))
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    fn enter<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let path = format!("/var/run/netns/{}", self.0);
        let entered = std::thread::spawn(move || -> anyhow::Result<T> {
            let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(job())
        });
        entered.join().map_err(|_| anyhow::anyhow!("a thread in {} panicked", self.0))?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns del {}", self.0)) {
            eprintln!("{error:#}");
        }
    }
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("cannot run ip")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {}", told.trim());
    Ok(())
}

pub struct Cable {
    near: Namespace,
    far: Namespace,
}

impl Cable {
    pub fn lay() -> anyhow::Result<Self> {
        let cable = Self { near: Namespace::new("a")?, far: Namespace::new("b")? };
        let (near, far) = (&cable.near.0, &cable.far.0);
        ip(&format!("link add eth0 netns {near} type veth peer name eth0 netns {far}"))?;
        for (namespace, address) in [(near, cable.outside().0), (far, cable.outside().1)] {
            ip(&format!("-n {namespace} address add {address}/24 dev eth0"))?;
            ip(&format!("-n {namespace} link set eth0 up"))?;
        }
        for end in [&cable.near, &cable.far] {
            let mut ethtool = end.command("ethtool");
            let output = ethtool.args(["-K", "eth0", "tx-udp-segmentation", "off", "gro", "on"]).output()?;
            ensure!(output.status.success(), "ethtool: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(cable)
    }

    /// The addresses of the cable's own ends.
    pub fn outside(&self) -> (IpAddr, IpAddr) {
        (Ipv4Addr::new(10, 77, 0, 1).into(), Ipv4Addr::new(10, 77, 0, 2).into())
    }

    pub fn near_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.near.command(program)
    }

    pub fn far_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.far.command(program)
    }

    pub fn in_near<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        self.near.enter(job)
    }

    pub fn in_far<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        self.far.enter(job)
    }
}

/// A program at work at one end.
struct End {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// A tunnel; ends with its programs when dropped.
pub struct Tunnel {
    ends: [End; 2],
}

impl Tunnel {
    /// `peers` and `addresses` are loaded into our own program.
    pub fn start(cable: &Cable, program: Program, peers: u32, addresses: u32) -> anyhow::Result<Self> {
        let keys = [PrivateKey::generate(), PrivateKey::generate()];
        let (near, far) = cable.outside();
        let (near_in, far_in) = inside();
        let load = (peers, addresses);
        let near_end = End::start(&cable.near, program, "a", [&keys[0], &keys[1]], (far, far_in), load)?;
        let far_end = End::start(&cable.far, program, "b", [&keys[1], &keys[0]], (near, near_in), load)?;
        let tunnel = Self { ends: [near_end, far_end] };
        for (namespace, end, own, other) in
            [(&cable.near.0, "a", near_in, far_in), (&cable.far.0, "b", far_in, near_in)]
        {
            let link = link(end);
            ip(&format!("-n {namespace} address add {own}/128 dev {link} nodad"))?;
            ip(&format!("-n {namespace} link set {link} mtu 1420 up"))?;
            ip(&format!("-n {namespace} route add {other}/128 dev {link}"))?;
        }
        Ok(tunnel)
    }

    /// The addresses of its ends.
    pub fn inside(&self) -> (IpAddr, IpAddr) {
        inside()
    }

    /// Seconds of processor time that both ends' programs have used.
    pub fn cpu_s(&self) -> anyhow::Result<f64> {
        self.ends.iter().map(|end| cpu_s(end.process.id())).sum()
    }

    /// Asks our own program how long a thousand changes of addresses take.
    pub fn changes_s(&mut self) -> anyhow::Result<f64> {
        let end = &mut self.ends[0];
        writeln!(end.input.as_mut().context("the tunnel is ending")?, "changes")?;
        let mut line = String::new();
        end.output.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("the tunnel said {line:?}"))
    }
}

fn inside() -> (IpAddr, IpAddr) {
    let address = |number| IpAddr::from(Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, number, 2));
    (address(1), address(2))
}

/// Sockets of programs are named after links, for the whole machine.
fn link(end: &str) -> String {
    format!("ab{}{end}", std::process::id())
}

impl End {
    fn start(
        namespace: &Namespace,
        program: Program,
        end: &str,
        [own, other]: [&PrivateKey; 2],
        (endpoint, prefix): (IpAddr, IpAddr),
        (peers, addresses): (u32, u32),
    ) -> anyhow::Result<Self> {
        let link = link(end);
        let mut command = namespace.command(program.path()?);
        match program {
            Program::Ours => command.args([
                link.clone(),
                BASE64_STANDARD.encode(own.expose()),
                PORT.to_string(),
                other.public().to_string(),
                format!("{endpoint}:{PORT}"),
                format!("{prefix}/128"),
                peers.to_string(),
                addresses.to_string(),
            ]),
            Program::Device => command.arg(&link),
            Program::WireguardGo => command.args(["--foreground", &link]),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().with_context(|| format!("cannot start {program:?}"))?;
        let input = process.stdin.take();
        let mut output = BufReader::new(process.stdout.take().context("no output")?);
        if program != Program::WireguardGo {
            let mut line = String::new();
            output.read_line(&mut line)?;
            ensure!(line.starts_with("ready"), "{program:?} did not start: {line:?}");
        }
        // From here on it is ended by being dropped.
        let made = Self { process, input, output };
        if program != Program::Ours {
            let peer = hex::encode(other.public().0);
            let own = hex::encode(own.expose());
            configure(
                &link,
                &format!(
                    "set=1\nprivate_key={own}\nlisten_port={PORT}\npublic_key={peer}\nendpoint={endpoint}:{PORT}\nallowed_ip={prefix}/128\n\n"
                ),
            )?;
        }
        Ok(made)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Ours and the device end with their input; whoever does not is killed.
        self.input = None;
        let deadline = Instant::now() + Duration::from_secs(1);
        while Instant::now() < deadline && self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Both fail only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Configures a program through its socket, as `wg` would.
fn configure(link: &str, request: &str) -> anyhow::Result<()> {
    let path = format!("/var/run/wireguard/{link}.sock");
    let deadline = Instant::now() + PATIENCE;
    let mut socket = loop {
        match UnixStream::connect(&path) {
            Ok(socket) => break socket,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error).with_context(|| format!("cannot connect to {path}")),
        }
    };
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(request.as_bytes())?;
    let mut answer = [0; 64];
    let length = socket.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    ensure!(answer.starts_with("errno=0"), "{link} was not configured: {answer:?}");
    Ok(())
}

fn cpu_s(process: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // Counted behind the name, which may hold anything.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let used = ticks(11).zip(ticks(12)).with_context(|| format!("{path} tells no times"))?;
    Ok((used.0 + used.1) / TICKS_PER_SECOND)
}
