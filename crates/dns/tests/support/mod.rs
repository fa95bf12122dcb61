//! A host of its own for each test, Debian's Knot on it, and `dig` as the client.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_dns::serve::{Allowance, Responder, Server};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

/// Runs the test in a network of its own, where these addresses are at home.
pub fn on_a_host<F: Future<Output = ()>>(
    addresses: &'static [&'static str],
    test: impl FnOnce() -> F + Send + 'static,
) {
    assert!(rustix::process::geteuid().is_root(), "these tests make network namespaces: run them as root");
    let host = std::thread::spawn(move || {
        // SAFETY: this thread is the test's own and nothing on it depends on the namespace left.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        // Threads and programs inherit the namespace of the thread that makes them.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            run("ip", "link set lo up").await;
            for address in addresses {
                run("ip", &format!("address add {address} dev lo nodad")).await;
            }
            test().await;
        });
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program to its end; what it printed.
pub async fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {printed}{complaint}");
    printed
}

/// `dig` with no retries of its own; all that it printed.
pub async fn dig(arguments: &str) -> String {
    run("dig", &format!("+tries=1 +time=8 {arguments}")).await
}

/// The data of the answer's records.
pub async fn short(arguments: &str) -> Vec<String> {
    dig(&format!("+short {arguments}")).await.lines().map(str::to_owned).collect()
}

/// Asks until the answer is the one awaited.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A server over UDP and TCP at one address; ends with this.
pub struct Served {
    stop: CancellationToken,
}

impl Served {
    pub fn new(address: SocketAddr, responder: Arc<dyn Responder>, allowance: Allowance) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let socket = UdpSocket::bind(address).unwrap();
        let stop = CancellationToken::new();
        let server = Server::new(responder, allowance);
        tokio::spawn(server.clone().udp(socket, stop.clone()));
        tokio::spawn(server.tcp(listener, stop.clone()));
        Self { stop }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Knot on port 5300 of the loopback address; its death is the process's.
pub struct Knot {
    process: Child,
}

impl Knot {
    /// Starts it with the rest of its configuration beside where it listens; files lie in the folder.
    pub async fn start(folder: &Path, configuration: &str) -> Self {
        let place = folder.display();
        let head = format!(
            "server:\n  rundir: {place}\n  listen: 127.0.0.1@5300\n  udp-workers: 1\n  tcp-workers: 1\n  \
             background-workers: 1\ndatabase:\n  storage: {place}\n"
        );
        let path = folder.join("knot.conf");
        std::fs::File::create(&path).unwrap().write_all(format!("{head}{configuration}").as_bytes()).unwrap();
        let mut command = Command::new("/usr/sbin/knotd");
        command.arg("-c").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let knot = Self { process: command.spawn().unwrap() };
        until("Knot answers", async || {
            let asked = Command::new("dig").args("+tries=1 +time=1 -p 5300 @127.0.0.1 . SOA".split(' ')).output().await;
            asked.unwrap().status.success().then_some(())
        })
        .await;
        knot
    }

    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}
