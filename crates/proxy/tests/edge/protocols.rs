//! What passes through an edge arrives as it was sent: bodies, trailers, upgraded connections, TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Method, Request, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::http::{bytes, h1, h2, is_reset, read, tls};
use crate::support::platform::Node;
use crate::support::{App, Client, Machine, PATIENCE, Platform, eventually};

/// An edge whose app runs on its own node, and one whose app runs elsewhere.
async fn near_and_far(app: App) -> (Platform, Node, Node, Arc<Machine>) {
    let platform = Platform::new();
    let near = platform.node("ams1", "ams");
    let far = platform.node("nrt1", "nrt");
    let name = platform.app("web");
    let machine = Machine::started("m1", app).await;
    platform.host(&near, &name, &machine);
    far.reaches(&near).await;
    (platform, near, far, machine)
}

#[tokio::test]
async fn bodies_of_all_sizes_come_back_whole() {
    let (_platform, near, far, _machine) = near_and_far(App::echo()).await;
    for entry in [near.http, far.http] {
        for size in [1, 64 << 10, 20 << 20] {
            let body: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            let reply = Client::new(entry, "web.localhost").post("/", body.clone()).await;
            assert!(reply.body == body, "{size} bytes came back as {}", reply.body.len());
        }
    }
}

#[tokio::test]
async fn bodies_flow_both_ways_before_they_end_and_trailers_follow() {
    let (_platform, near, far, _machine) = near_and_far(App::echo()).await;
    for entry in [near.http, far.http] {
        let client = Client::new(entry, "web.localhost");
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
        let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let request = client
            .request(Method::POST, "/")
            .header("trailer", "x-sum")
            .header("te", "trailers")
            .body(BodyExt::boxed(body))
            .unwrap();
        sender.send(Ok(Frame::data(Bytes::from_static(b"first")))).await.unwrap();
        let mut response = client.send(request).await.unwrap();
        for piece in ["first", "second", "third"] {
            if piece != "first" {
                sender.send(Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).await.unwrap();
            }
            let frame = tokio::time::timeout(PATIENCE, response.frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "42".parse().unwrap());
        sender.send(Ok(Frame::trailers(trailers))).await.unwrap();
        drop(sender);
        let frame = response.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_trailers().unwrap()["x-sum"], "42");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request_at_the_machine() {
    let (app, _drip) = App::drip();
    let (_platform, near, far, _machine) = near_and_far(app).await;
    for entry in [near.http, far.http] {
        let client = Client::new(entry, "web.localhost");
        let request = client.request(Method::GET, "/").body(bytes("")).unwrap();
        let response = client.send(request).await.unwrap();
        let busy = || near.worker.loads.lock().unwrap().iter().map(|load| load.loads[0]).sum::<u32>();
        eventually("the request is counted", async || busy() == 1).await;
        drop(response);
        eventually("the request is over", async || busy() == 0).await;
    }
}

#[tokio::test]
async fn websockets_work_here_and_through_another_edge() {
    let (_platform, near, far, _machine) = near_and_far(App::websocket_echo()).await;
    for entry in [near.http, far.http] {
        let stream = TcpStream::connect(entry).await.unwrap();
        let (mut socket, response) = tokio_tungstenite::client_async("ws://web.localhost/chat", stream).await.unwrap();
        assert_eq!(response.status(), 101);
        for size in [1, 100_000] {
            socket.send(Message::text("x".repeat(size))).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap().len(), size);
        }
        let busy = || near.worker.loads.lock().unwrap().iter().map(|load| load.loads[0]).sum::<u32>();
        eventually("an open WebSocket is load", async || busy() == 1).await;
        socket.close(None).await.unwrap();
        drop(socket);
        eventually("a closed WebSocket is none", async || busy() == 0).await;
    }
}

#[tokio::test]
async fn an_upgrade_that_the_machine_does_not_want_is_an_ordinary_answer() {
    let (_platform, near, far, _machine) = near_and_far(App::mirror()).await;
    for entry in [near.http, far.http] {
        let client = Client::new(entry, "web.localhost");
        let request = client
            .request(Method::GET, "/plain")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(bytes(""))
            .unwrap();
        let reply = client.fetch(request).await.unwrap();
        assert_eq!(reply.status, 200);
        assert!(reply.text().starts_with("GET /plain HTTP/1.1\n"), "{}", reply.text());
        assert!(reply.headers.get("atoll-status").is_none());
    }
}

#[tokio::test]
async fn http2_over_tls_is_served_by_server_name() {
    let (platform, near, far, _machine) = near_and_far(App::mirror()).await;
    platform.certificate("web.localhost");
    let config = platform.authority.client(&["h2"]);
    for entry in [near.https, far.https] {
        let stream = tls(entry, "web.localhost", config.clone()).await.unwrap();
        let mut sender = h2(stream).await.unwrap();
        let requests: Vec<_> = (0..20)
            .map(|number| {
                let request = Request::builder()
                    .method(Method::POST)
                    .version(Version::HTTP_2)
                    .uri(format!("https://web.localhost/{number}?q=1"))
                    .body(bytes("x"))
                    .unwrap();
                sender.send_request(request)
            })
            .collect();
        for (number, response) in requests.into_iter().enumerate() {
            let reply = read(response.await.unwrap()).await.unwrap();
            assert_eq!(reply.status, 200);
            assert!(reply.text().starts_with(&format!("POST /{number}?q=1 HTTP/1.1\n")), "{}", reply.text());
            assert!(reply.text().contains("\nhost: web.localhost\n"), "{}", reply.text());
            assert!(reply.text().contains("\nx-forwarded-proto: https\n"), "{}", reply.text());
        }
    }
    let stream = tls(near.https, "web.localhost", platform.authority.client(&["http/1.1"])).await.unwrap();
    let request = Client::new(near.https, "web.localhost").request(Method::GET, "/").body(bytes("")).unwrap();
    let reply = read(h1(stream).await.unwrap().send_request(request).await.unwrap()).await.unwrap();
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn without_a_certificate_the_handshake_is_aborted() {
    let (platform, near, _far, _machine) = near_and_far(App::hello()).await;
    let config = platform.authority.client(&[]);
    tls(near.https, "web.localhost", config.clone()).await.unwrap_err();
    platform.certificate("web.localhost");
    tls(near.https, "web.localhost", config.clone()).await.unwrap();
    platform.certificate("web.localhost");
    tls(near.https, "web.localhost", config).await.expect("a renewed certificate is used");
    assert_eq!(near.edge().counters().tls_failures.get(), 1);
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_without_tls() {
    let (_platform, near, _far, _machine) = near_and_far(App::hello()).await;
    let mut sender = h2(TcpStream::connect(near.http).await.unwrap()).await.unwrap();
    let request = Request::builder().uri("http://web.localhost/").body(bytes("")).unwrap();
    assert_eq!(read(sender.send_request(request).await.unwrap()).await.unwrap().text(), "m1 0");
}

/// Sends raw bytes and returns all that comes back until the edge closes.
async fn raw(node: &Node, request: &str) -> String {
    let mut stream = TcpStream::connect(node.http).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("the edge closes").unwrap();
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test]
async fn old_and_bodiless_http_is_answered_correctly() {
    let (_platform, near, _far, _machine) = near_and_far(App::hello()).await;
    let reply = raw(&near, "GET / HTTP/1.0\r\nHost: web.localhost\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.0 200") && reply.ends_with("m1 0"), "{reply}");
    let reply = raw(&near, "HEAD / HTTP/1.1\r\nHost: web.localhost\r\nConnection: close\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("\r\n\r\n"), "{reply}");
    let reply = raw(&near, "GET http://web.localhost/ HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

#[tokio::test]
async fn a_client_may_wait_for_permission_to_send_its_body() {
    let (_platform, near, _far, _machine) = near_and_far(App::hello()).await;
    let mut stream = TcpStream::connect(near.http).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = [0; 25];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"12345").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.ends_with("m1 5"), "{reply}");
}

#[tokio::test]
async fn ambiguous_requests_are_refused_or_made_unambiguous() {
    let (_platform, near, _far, machine) = near_and_far(App::mirror()).await;
    for ambiguous in [
        "POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: web.localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: web.localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: +5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: web.localhost\r\nX: a\r\n\tfolded\r\n\r\n",
        "CONNECT web.localhost:80 HTTP/1.1\r\nHost: web.localhost\r\nConnection: close\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: web.localhost\r\nConnection: close\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web.localhost\r\nHost: web.localhost\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: other@web.localhost\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: web.localhost/..\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : web.localhost\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\nHost: web.localhost\r\nX: a\rb\r\n\r\n",
    ] {
        let reply = raw(&near, ambiguous).await;
        let refused =
            reply.starts_with("HTTP/1.1 400") || reply.starts_with("HTTP/1.1 501") || reply.starts_with("HTTP/1.0 400");
        assert!(refused, "{ambiguous:?} was answered {reply:?}");
    }
    assert_eq!(machine.requests(), 0);
    let both = "POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let reply = raw(&near, both).await;
    assert!(reply.contains("transfer-encoding: chunked") && !reply.contains("\ncontent-length: 5"), "{reply}");
}

#[tokio::test]
async fn every_spelling_of_a_host_is_the_same_host() {
    let (platform, near, _far, machine) = near_and_far(App::hello()).await;
    platform.app_with("other", |app| app.hostnames = vec!["www.example.org".into()]);
    for host in ["Web.LocalHost", "web.localhost.", "web.localhost:80", "WEB.localhost.:8080", "web.localhost:"] {
        let reply = raw(&near, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{host}: {reply}");
    }
    let served = machine.requests();
    for host in ["[2001:db8::1]:80", "192.0.2.1", "localhost", "web.localhost.example"] {
        let reply = raw(&near, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert!(reply.starts_with("HTTP/1.1 404"), "{host}: {reply}");
    }
    assert_eq!(machine.requests(), served);
}

#[tokio::test]
async fn what_concerns_one_connection_stays_on_it() {
    let (_platform, near, far, _machine) = near_and_far(App::mirror()).await;
    for entry in [near.http, far.http] {
        let request = Client::new(entry, "web.localhost")
            .request(Method::GET, "/")
            .header("connection", "keep-alive, x-hop")
            .header("keep-alive", "timeout=5")
            .header("proxy-connection", "keep-alive")
            .header("x-hop", "1")
            .header("te", "gzip")
            .header("x-end", "to end")
            .body(bytes(""))
            .unwrap();
        let reply = Client::new(entry, "web.localhost").fetch(request).await.unwrap();
        for name in ["connection", "keep-alive", "proxy-connection", "x-hop", "te"] {
            assert!(!reply.text().contains(&format!("\n{name}:")), "{name} reached the machine: {}", reply.text());
        }
        assert!(reply.text().contains("\nx-end: to end"), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.timeouts.body_read = Duration::from_millis(200));
    let app = platform.app("web");
    let machine = Machine::started("m1", App::hello()).await;
    platform.host(&ams, &app, &machine);
    let stuck = "POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 5\r\n\r\n12";
    let reply = raw(&ams, stuck).await;
    assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
    let busy = || ams.worker.loads.lock().unwrap().iter().map(|load| load.loads[0]).sum::<u32>();
    eventually("the machine is free again", async || busy() == 0).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.timeouts.client_write = Duration::from_millis(200));
    let app = platform.app("web");
    let machine = Machine::started("m1", App::echo()).await;
    platform.host(&ams, &app, &machine);
    // More than all buffers on the way hold, and sent without ever reading the answer.
    let body = vec![b'x'; 64 << 20];
    let mut stream = TcpStream::connect(ams.http).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let sent = tokio::time::timeout(PATIENCE, stream.write_all(&body)).await.expect("the edge closes");
    assert!(sent.is_err(), "everything was taken");
}

/// A request over HTTP/2 from a client that opens its window for `window` bytes and no more by itself.
async fn with_window(entry: std::net::SocketAddr, window: u32) -> h2::RecvStream {
    let stream = TcpStream::connect(entry).await.unwrap();
    let (sender, connection) =
        h2::client::Builder::new().initial_window_size(window).handshake::<_, Bytes>(stream).await.unwrap();
    // Answers pings: this client is alive.
    tokio::spawn(connection);
    let request = Request::get("http://web.localhost/").body(()).unwrap();
    let (response, _) = sender.ready().await.unwrap().send_request(request, true).unwrap();
    response.await.unwrap().into_body()
}

#[tokio::test]
async fn an_http2_client_that_keeps_its_window_shut_is_given_up() {
    const LIMIT: Duration = Duration::from_millis(300);
    let platform = Platform::new();
    let shorter = |config: &mut atoll_proxy::EdgeConfig| config.timeouts.client_write = LIMIT;
    let near = platform.node_with("ams1", "ams", shorter);
    let far = platform.node_with("nrt1", "nrt", shorter);
    let name = platform.app("web");
    let (app, pieces) = App::drip();
    let machine = Machine::started("m1", app).await;
    platform.host(&near, &name, &machine);
    far.reaches(&near).await;
    let busy = || near.worker.loads.lock().unwrap().iter().map(|load| load.loads[0]).sum::<u32>();
    for entry in [near.http, far.http] {
        for window in [0, 10] {
            let mut body = with_window(entry, window).await;
            eventually("the request is counted", async || busy() == 1).await;
            let feeding = tokio::spawn({
                let pieces = pieces.clone();
                async move {
                    // Ends when nobody listens any more.
                    while pieces.send(Bytes::from_static(&[b'x'; 1000])).is_ok() {
                        tokio::time::sleep(LIMIT / 20).await;
                    }
                }
            });
            let ended = async {
                loop {
                    match body.data().await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return error,
                        None => panic!("the answer came to its end"),
                    }
                }
            };
            let error = tokio::time::timeout(PATIENCE, ended).await.expect("the edge resets the stream");
            assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "{error}");
            eventually("the machine is free again", async || busy() == 0).await;
            feeding.abort();
        }
    }
    for node in [&near, &far] {
        assert_eq!(node.edge().counters().failures().get("PU05"), Some(&2));
    }
}

#[tokio::test]
async fn a_slow_http2_client_and_a_silent_machine_are_waited_for() {
    const LIMIT: Duration = Duration::from_millis(300);
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.timeouts.client_write = LIMIT);
    let name = platform.app("web");
    let (app, pieces) = App::drip();
    let machine = Machine::started("m1", app).await;
    platform.host(&ams, &name, &machine);
    let mut body = with_window(ams.http, 10).await;
    // The machine says nothing for longer than a client may take nothing.
    tokio::time::sleep(LIMIT * 3).await;
    for _ in 0..10 {
        pieces.send(Bytes::from_static(&[b'x'; 10])).unwrap();
    }
    // An empty piece ends the answer.
    pieces.send(Bytes::new()).unwrap();
    let mut taken = 0;
    while taken < 100 {
        let piece = tokio::time::timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap();
        tokio::time::sleep(LIMIT / 5).await;
        taken += piece.len();
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    assert_eq!(taken, 100);
}

#[tokio::test]
async fn the_private_side_is_closed_to_whoever_is_in_no_network() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app_with("web", |app| app.addresses = vec!["127.0.0.1".parse().unwrap()]);
    let machine = Machine::started("m1", App::hello()).await;
    platform.host(&ams, &app, &machine);
    assert_eq!(Client::new(ams.http, "web.localhost").get("/").await.status, 200);
    assert!(is_reset(ams.private).await, "a connection was not refused");
    assert_eq!(machine.requests(), 1);
}

#[tokio::test]
async fn huge_headers_and_slow_clients_are_cut_off() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.timeouts.header_read = Duration::from_millis(300));
    let huge = format!("GET / HTTP/1.1\r\nHost: web.localhost\r\nX: {}\r\n\r\n", "x".repeat(70 << 10));
    assert!(raw(&ams, &huge).await.starts_with("HTTP/1.1 431"));
    for slow in ["", "G", "GET / HTTP/1.1\r\nHost:"] {
        let reply = raw(&ams, slow).await;
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 408"), "{reply}");
    }
}

#[tokio::test]
async fn a_machine_may_ask_for_http2() {
    let platform = Platform::new();
    let near = platform.node("ams1", "ams");
    let far = platform.node("nrt1", "nrt");
    let name = platform.app("web");
    let machine = Machine::started("m1", App::mirror()).await;
    platform.host_with(&near, &name, &machine, |row| {
        let service = &mut Arc::get_mut(&mut row.services).unwrap()[0].service;
        service.ports[0].http_options = Some(serde_json::from_str(r#"{"h2_backend": true}"#).unwrap());
    });
    far.reaches(&near).await;
    for entry in [near.http, far.http] {
        let reply = Client::new(entry, "web.localhost").post("/rpc", "x").await;
        assert!(reply.text().starts_with("POST http://web.localhost/rpc HTTP/2.0\n"), "{}", reply.text());
    }
}

#[tokio::test]
async fn an_edge_that_drains_says_goodbye_to_websockets() {
    let (_platform, mut near, mut far, _machine) = near_and_far(App::websocket_echo()).await;
    for node in [&mut far, &mut near] {
        let stream = TcpStream::connect(node.http).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async("ws://web.localhost/chat", stream).await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
        let draining = tokio::spawn(node.edge.take().unwrap().drain(PATIENCE));
        let Message::Close(Some(goodbye)) = socket.next().await.unwrap().unwrap() else {
            panic!("no close frame came")
        };
        assert_eq!(u16::from(goodbye.code), 1001);
        assert!(socket.next().await.is_none(), "something followed the close frame");
        drop(socket);
        assert_eq!(draining.await.unwrap(), 0, "connections were cut");
    }
}
