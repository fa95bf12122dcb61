//! Services without HTTP.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use atoll_model::service::{Handler, Port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::http::tls;
use crate::support::platform::Node;
use crate::support::{App, Machine, Platform, eventually};

async fn echoing(platform: &Platform, node: &Node, handlers: &[Handler]) {
    echoing_at(platform, node, "127.0.0.1".parse().unwrap(), handlers).await;
}

/// A machine that sends everything back, with a service on 5432 and 443 handled as given, entered at an address.
pub async fn echoing_at(platform: &Platform, node: &Node, address: IpAddr, handlers: &[Handler]) {
    let app = platform.app_with("db", |app| app.addresses = vec![address]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut machine = Arc::into_inner(Machine::stopped("db", App::hello()).await).unwrap();
    machine.port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    platform.host_with(node, &app, &Arc::new(machine), |row| {
        row.state = atoll_model::MachineState::Started;
        let service = &mut Arc::get_mut(&mut row.services).unwrap()[0].service;
        service.ports =
            [5432, 443].map(|port| Port { port: Some(port), handlers: handlers.to_vec(), ..Port::default() }).into();
    });
}

#[tokio::test]
async fn bytes_pass_as_they_are_here_and_through_another_edge() {
    let platform = Platform::new();
    let near = platform.node("ams1", "ams");
    let far = platform.node("nrt1", "nrt");
    echoing(&platform, &near, &[]).await;
    far.reaches(&near).await;
    for entry in [near.tcp, far.tcp] {
        let mut stream = TcpStream::connect(entry).await.unwrap();
        let (mut read, mut write) = stream.split();
        let sent = vec![b'x'; 3 << 20];
        let mut received = Vec::new();
        let sending = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        tokio::join!(sending, async { read.read_to_end(&mut received).await.unwrap() });
        assert!(received == sent, "{} bytes came back", received.len());
    }
    let counted = |node: &Node| {
        let counters = node.edge().counters();
        counters.bytes_same_node.get() + counters.bytes_cross_region.get()
    };
    eventually("bytes are counted", async || counted(&near) >= 6 << 20 && counted(&far) >= 6 << 20).await;
}

#[tokio::test]
async fn tls_may_end_at_the_edge_and_the_client_may_be_announced() {
    let platform = Platform::new();
    let near = platform.node("ams1", "ams");
    platform.certificate("db.localhost");
    echoing(&platform, &near, &[Handler::Tls, Handler::ProxyProto]).await;
    for entry in [near.https, near.tcp] {
        let mut stream = tls(entry, "db.localhost", platform.authority.client(&[])).await.unwrap();
        let port = stream.get_ref().0.local_addr().unwrap().port();
        let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}\r\nhello", entry.port());
        stream.write_all(b"hello").await.unwrap();
        let mut received = vec![0; expected.len()];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(String::from_utf8(received).unwrap(), expected);
    }
}

#[tokio::test]
async fn postgres_clients_may_ask_for_tls_in_their_own_way() {
    let platform = Platform::new();
    let near = platform.node("ams1", "ams");
    platform.certificate("db.localhost");
    echoing(&platform, &near, &[Handler::PgTls]).await;
    let mut stream = TcpStream::connect(near.tcp).await.unwrap();
    stream.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]).await.unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"S");
    let connector = tokio_rustls::TlsConnector::from(platform.authority.client(&[]));
    let mut stream = connector.connect("db.localhost".try_into().unwrap(), stream).await.unwrap();
    stream.write_all(b"query").await.unwrap();
    let mut received = [0; 5];
    stream.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"query");
}

#[tokio::test]
async fn connections_to_nobody_are_closed() {
    let platform = Platform::new();
    let near = platform.node_with("ams1", "ams", |config| config.timeouts.hold = std::time::Duration::from_millis(100));
    let read_end = async || {
        let mut stream = TcpStream::connect(near.tcp).await.unwrap();
        stream.read(&mut [0]).await.unwrap_or(0)
    };
    assert_eq!(read_end().await, 0);
    let app = platform.app_with("db", |app| app.addresses = vec!["127.0.0.1".parse().unwrap()]);
    let machine = Machine::stopped("db", App::hello()).await;
    platform.host_with(&near, &app, &machine, |row| {
        row.cordoned = true;
        Arc::get_mut(&mut row.services).unwrap()[0].service.ports[0] = Port { port: Some(5432), ..Port::default() };
    });
    assert_eq!(read_end().await, 0);
    assert_eq!(near.worker.wakes.load(Ordering::SeqCst), 0);
}
