//! Small worlds, and sockets in them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use atoll_lab::{Host, Lab, Options, World};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_atoll-lab");

/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Every test begins here.
#[track_caller]
pub fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "these tests make namespaces and control groups: run them as root");
}

pub async fn start(world: &str) -> Lab {
    require_root();
    let world = World::parse(world).unwrap();
    let options = Options { program: Some(Path::new(PROGRAM).to_owned()), ..Options::default() };
    Lab::start(&world, &options).await.unwrap()
}

/// Two nodes in the same city, and what the link between them does.
pub async fn pair(link: &str) -> (Lab, Host, Host) {
    let lab = start(&format!("{}{}[[link]]\na = \"a\"\nb = \"b\"\n{link}\n", node("a", "ams"), node("b", "ams"))).await;
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    (lab, a, b)
}

pub fn node(name: &str, city: &str) -> String {
    format!("[[host]]\nname = \"{name}\"\ncity = \"{city}\"\nrole = \"node\"\n")
}

pub fn client(name: &str, city: &str) -> String {
    node(name, city).replace("\"node\"", "\"client\"")
}

/// A datagram socket in a host, and its address there.
pub async fn udp(host: &Host) -> (UdpSocket, SocketAddr) {
    let address = host.ipv4().unwrap();
    let socket = host.in_network(move || UdpSocket::bind((address, 0))).await.unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Sends every datagram back, until none has come for ten seconds.
pub fn echo(socket: UdpSocket) {
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = undisturbed(|| socket.recv_from(&mut buffer)) {
            if socket.send_to(&buffer[..length], from).is_err() {
                break;
            }
        }
    });
}

/// Repeats what a signal broke off: a read with a time limit is not taken up again by itself, and other
/// tests of this process have children that end.
pub fn undisturbed<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Round trips, sorted. Lost ones are left out.
pub fn round_trips(socket: &UdpSocket, to: SocketAddr, count: u32) -> Vec<Duration> {
    let mut taken = Vec::new();
    let mut buffer = [0; 64];
    for number in 0..count {
        let sent = Instant::now();
        socket.send_to(&number.to_be_bytes(), to).unwrap();
        match undisturbed(|| socket.recv(&mut buffer)) {
            Ok(_) => taken.push(sent.elapsed()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
    taken.sort();
    taken
}

/// Asks for something on a condition until it holds.
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub const SERVICE: Ipv4Addr = atoll_lab::address::SERVICE_ADDRESS;
