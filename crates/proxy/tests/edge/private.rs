//! Calls at private addresses, on a host of their own: the kernel leads them to the edge as a server's does, and
//! remembers where they were going. Needs root, iproute2 and nftables.

use std::io::{ErrorKind, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_model::MachineId;
use atoll_model::address::{FLYCAST_BITS, FLYCAST_MASK, FLYCAST_PORT, NetworkId, flycast_address, machine_address};
use atoll_model::service::Handler;
use hyper::{Method, Request};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::http::{Reply, bytes, h1, read};
use crate::support::platform::Node;
use crate::support::{App, Machine, PATIENCE, Platform};
use crate::tcp::echoing_at;

const NETWORK: NetworkId = NetworkId(1);
const OTHER: NetworkId = NetworkId(2);
/// The node's own address in the mesh.
const NODE: Ipv6Addr = Ipv6Addr::new(0xfdaa, 0, 0, 1, 0, 0, 0, 1);

/// Where the app is entered.
fn app_address() -> Ipv6Addr {
    flycast_address(NETWORK, 5)
}

fn caller(network: NetworkId) -> Ipv6Addr {
    machine_address(network, 0, 9)
}

/// Runs the test in a network of its own, in which all private addresses are the loopback's.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    assert!(rustix::process::geteuid().is_root(), "these tests make a network namespace: run them as root");
    let host = std::thread::spawn(move || {
        // SAFETY: this thread is the test's own, and nothing on it depends on the namespace left.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        ip("link set lo up");
        for address in [NODE, caller(NETWORK), caller(OTHER)] {
            ip(&format!("-6 addr add {address}/128 dev lo nodad"));
        }
        ip("-6 route add fdaa::/16 dev lo");
        lead_calls();
        // Threads inherit the namespace of the thread that makes them.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// As the worker's packet filter does for what comes from machines.
fn lead_calls() {
    let rules = format!(
        r#"table inet test {{
    chain calls {{
        type nat hook output priority -100; policy accept;
        ip6 daddr & {FLYCAST_MASK} == {FLYCAST_BITS} meta l4proto tcp dnat ip6 to [{NODE}]:{FLYCAST_PORT}
    }}
}}
"#
    );
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "{rules}");
}

/// A node whose edge takes machines' calls.
fn node(platform: &Platform) -> Node {
    let mut node = platform.node("ams1", "ams");
    node.sockets[4] = StdListener::bind((NODE, FLYCAST_PORT)).unwrap();
    platform.start_edge(&mut node, |config| config.timeouts.hold = Duration::from_secs(5));
    node
}

/// The machine that calls, as the catalogue knows it.
fn put_caller(platform: &Platform, node: &Node, idle: &std::sync::Arc<Machine>) -> MachineId {
    let app = platform.app("caller");
    platform.host_with(node, &app, idle, |row| row.private_ipv6 = caller(NETWORK))
}

async fn call(from: NetworkId, to: Ipv6Addr, port: u16) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v6()?;
    socket.bind((caller(from), 0).into())?;
    tokio::time::timeout(PATIENCE, socket.connect((to, port).into())).await?
}

async fn get(port: u16, headers: &[(&str, &str)]) -> Reply {
    let stream = call(NETWORK, app_address(), port).await.unwrap();
    let mut request = Request::builder().method(Method::GET).uri("/").header("host", "web.flycast");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut sender = h1(stream).await.unwrap();
    read(sender.send_request(request.body(bytes("")).unwrap()).await.unwrap()).await.unwrap()
}

/// What kind of end a call comes to that nobody takes.
async fn refused(from: NetworkId, to: SocketAddr) -> ErrorKind {
    let outcome = async {
        let SocketAddr::V6(to) = to else { panic!("{to} is no private address") };
        let mut stream = call(from, *to.ip(), to.port()).await?;
        tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await?
    };
    outcome.await.expect_err("the call was taken").kind()
}

#[test]
fn a_call_wakes_a_machine_and_says_who_calls() {
    on_a_host(|| async {
        let platform = Platform::new();
        let near = node(&platform);
        let app = platform.app_with("web", |app| app.addresses = vec![app_address().into()]);
        let machine = Machine::stopped("m1", App::mirror()).await;
        platform.host_with(&near, &app, &machine, |row| {
            let services = std::sync::Arc::get_mut(&mut row.services).unwrap();
            // Not for calls from within.
            services[0].service.ports[0].force_https = true;
        });
        let id = put_caller(&platform, &near, &Machine::started("caller", App::hello()).await);

        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let reply = get(80, &[("fly-src", "instance=forged"), ("fly-client-ip", "::1")]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(near.worker.wakes.load(Ordering::SeqCst), 1);
        let text = reply.text();
        let said = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
        };
        assert_eq!(said("fly-client-ip"), caller(NETWORK).to_string());
        assert_eq!(said("x-forwarded-for"), format!("{}, {}", caller(NETWORK), app_address()));
        assert_eq!((said("fly-forwarded-port"), said("x-forwarded-proto")), ("80".to_owned(), "http".to_owned()));
        let source = said("fly-src");
        let at = source.strip_prefix(&format!("instance={id};app=caller;org=personal;ts=")).expect(&source);
        assert!((before..before + 60).contains(&at.parse().unwrap()), "{source}");
        let logged = near.log.entries.lock().unwrap().iter().any(|entry| entry.client == caller(NETWORK));
        assert!(logged, "the call is not in the log");
    });
}

#[test]
fn a_call_goes_on_to_a_machine_elsewhere() {
    on_a_host(|| async {
        let platform = Platform::new();
        let near = node(&platform);
        let far = platform.node("nrt1", "nrt");
        let app = platform.app_with("web", |app| app.addresses = vec![app_address().into()]);
        platform.host(&far, &app, &Machine::stopped("far", App::hello()).await);
        near.reaches(&far).await;
        assert_eq!(get(80, &[]).await.text(), "far 0");
        assert_eq!((near.worker.wakes.load(Ordering::SeqCst), far.worker.wakes.load(Ordering::SeqCst)), (0, 1));
    });
}

#[test]
fn what_is_nobodys_is_refused_at_once() {
    on_a_host(|| async {
        let platform = Platform::new();
        let near = node(&platform);
        // Entered from another network than its own.
        let app = platform.app_with("web", |app| app.addresses = vec![flycast_address(OTHER, 3).into()]);
        let machine = Machine::started("m1", App::hello()).await;
        platform.host(&near, &app, &machine);
        let entered = flycast_address(OTHER, 3);
        assert!(call(OTHER, entered, 80).await.is_ok());
        for (what, from, to) in [
            ("a port that is no service's", OTHER, (entered, 81)),
            ("an address that is no app's", OTHER, (flycast_address(OTHER, 4), 80)),
            ("another network's address", NETWORK, (entered, 80)),
            ("the edge's own socket", OTHER, (NODE, FLYCAST_PORT)),
        ] {
            assert_eq!(refused(from, to.into()).await, ErrorKind::ConnectionReset, "{what}");
        }
        assert_eq!(machine.requests(), 0);
    });
}

#[test]
fn services_without_http_are_called_as_by_users() {
    on_a_host(|| async {
        let platform = Platform::new();
        let near = node(&platform);
        platform.certificate("db.localhost");
        echoing_at(&platform, &near, app_address().into(), &[Handler::Tls, Handler::ProxyProto]).await;
        let stream = call(NETWORK, app_address(), 5432).await.unwrap();
        let port = stream.local_addr().unwrap().port();
        let expected = format!("PROXY TCP6 {} {} {port} 5432\r\nhello", caller(NETWORK), app_address());
        let connector = tokio_rustls::TlsConnector::from(platform.authority.client(&[]));
        let mut stream = connector.connect("db.localhost".try_into().unwrap(), stream).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut received = vec![0; expected.len()];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(String::from_utf8(received).unwrap(), expected);
    });
}

#[test]
fn a_call_waits_for_the_next_edge() {
    on_a_host(|| async {
        let platform = Platform::new();
        let mut near = node(&platform);
        let app = platform.app_with("web", |app| app.addresses = vec![app_address().into()]);
        platform.host(&near, &app, &Machine::started("m1", App::hello()).await);
        let edge = near.edge.take().unwrap();
        edge.drain(Duration::from_millis(100)).await;
        let calling = tokio::spawn(get(80, &[]));
        platform.start_edge(&mut near, |_| {});
        assert_eq!(calling.await.unwrap().text(), "m1 0");
    });
}
