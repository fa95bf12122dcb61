//! The platform's own API at an edge: requests for it go to control as they are, once, with the edge's word on
//! who sent them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use atoll_proxy::surroundings::{ByteStream, PlatformApi};
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::{Method, Request, Response, Version};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::http::{Reply, bytes, h1, h2, is_reset, read, tls};
use crate::support::machine::full;
use crate::support::platform::Node;
use crate::support::{App, Client, Machine, Platform, eventually};

const HOST: &str = "api.localhost";

/// Control, as far as an edge is concerned.
struct Control(Arc<Machine>);

#[async_trait]
impl PlatformApi for Control {
    async fn connect(&self) -> io::Result<Box<dyn ByteStream>> {
        Ok(Box::new(TcpStream::connect((self.0.address, self.0.port)).await?))
    }
}

/// An edge that knows the way to control.
async fn edge_with(app: App) -> (Platform, Node, Arc<Machine>) {
    let platform = Platform::new();
    platform.certificate(HOST);
    let control = Machine::started("control", app).await;
    let mut node = platform.node("nrt1", "nrt");
    node.api = Some(Arc::new(Control(control.clone())));
    platform.start_edge(&mut node, |_| {});
    (platform, node, control)
}

/// A request as HTTP/1.1 clients write it.
fn request(method: Method, path: &str) -> hyper::http::request::Builder {
    Request::builder().method(method).uri(path).header("host", HOST)
}

async fn fetch(platform: &Platform, node: &Node, request: Request<crate::support::http::Body>) -> Reply {
    let stream = tls(node.https, HOST, platform.authority.client(&["http/1.1"])).await.unwrap();
    read(h1(stream).await.unwrap().send_request(request).await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn requests_of_both_versions_go_to_control_with_the_edges_word_alone() {
    let (platform, node, _control) = edge_with(App::mirror()).await;
    let forged = |builder: hyper::http::request::Builder| {
        let builder = builder.header("fly-client-ip", "203.0.113.9").header("fly-request-id", "forged");
        builder.header("atoll-machine", "x").header("authorization", "Bearer t").body(bytes("")).unwrap()
    };
    let old = fetch(&platform, &node, forged(request(Method::GET, "/v1/apps?org_slug=personal"))).await;
    let stream = tls(node.https, HOST, platform.authority.client(&["h2"])).await.unwrap();
    let new = Request::builder().version(Version::HTTP_2).uri(format!("https://{HOST}/v1/apps?org_slug=personal"));
    let new = read(h2(stream).await.unwrap().send_request(forged(new)).await.unwrap()).await.unwrap();
    for reply in [old, new] {
        let (status, text) = (reply.status, reply.text());
        assert!(status == 200 && text.starts_with("GET /v1/apps?org_slug=personal HTTP/1.1\n"), "{status} {text}");
        assert!(text.contains("\nfly-client-ip: 127.0.0.1\n") && text.contains("\nhost: api.localhost"), "{text}");
        assert!(text.contains("\nauthorization: Bearer t\n") || text.contains("authorization: Bearer t\n"), "{text}");
        assert!(!text.contains("forged") && !text.contains("atoll-machine"), "{text}");
        assert!(text.contains(&format!("fly-request-id: {}", reply.header("fly-request-id"))), "{text}");
    }
}

#[tokio::test]
async fn large_bodies_stream_both_ways() {
    let (platform, node, _control) = edge_with(App::echo()).await;
    let body: Vec<u8> = (0..20 << 20).map(|index: u32| (index % 251) as u8).collect();
    let sent = request(Method::PUT, "/v2/web/blobs").body(bytes(body.clone())).unwrap();
    let reply = fetch(&platform, &node, sent).await;
    assert!(reply.body == body, "{} bytes came back", reply.body.len());
}

#[tokio::test]
async fn what_control_says_little_by_little_arrives_as_it_comes() {
    let (app, drip) = App::drip();
    let (platform, node, _control) = edge_with(app).await;
    let stream = tls(node.https, HOST, platform.authority.client(&["http/1.1"])).await.unwrap();
    let mut sender = h1(stream).await.unwrap();
    let mut response = sender.send_request(request(Method::GET, "/logs").body(bytes("")).unwrap()).await.unwrap();
    for line in ["one", "two"] {
        drip.send(line.into()).unwrap();
        assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), line);
    }
}

#[tokio::test]
async fn consoles_are_opened_through_an_edge() {
    let (platform, node, _control) = edge_with(App::websocket_echo()).await;
    let stream = tls(node.https, HOST, platform.authority.client(&[])).await.unwrap();
    let url = format!("wss://{HOST}/api/v1/apps/web/machines/x/console");
    let (mut socket, response) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    assert_eq!(response.status(), 101);
    socket.send(Message::text("stty size")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "stty size");
}

#[tokio::test]
async fn while_control_is_away_clients_are_told_so_and_when_to_come_again() {
    let (platform, node, control) = edge_with(App::hello()).await;
    let get = || request(Method::GET, "/v1/apps").body(bytes("")).unwrap();
    assert_eq!(fetch(&platform, &node, get()).await.text(), "control 0");
    control.kill();
    let reply = fetch(&platform, &node, get()).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, "2"));
    assert_eq!(reply.header("content-type"), "application/json");
    let text = reply.text();
    assert!(text.starts_with(r#"{"error":"the platform's control process cannot be reached"#), "{text}");
    control.start().await;
    assert_eq!(fetch(&platform, &node, get()).await.text(), "control 0");
}

#[tokio::test]
async fn so_many_requests_at_once_and_no_more() {
    let (platform, mut node, control) = edge_with(App::slow(Duration::from_secs(60))).await;
    platform.start_edge(&mut node, |config| config.limits.connections_to_control = 1);
    let post = || request(Method::POST, "/v1/apps").body(bytes("{}")).unwrap();
    let first = async {
        let slow = fetch(&platform, &node, post());
        tokio::time::timeout(crate::support::PATIENCE, slow).await.ok();
    };
    let second = async {
        eventually("control has the first", async || control.requests() == 1).await;
        fetch(&platform, &node, post()).await
    };
    let reply = tokio::select! {
        () = first => panic!("the first request ended"),
        reply = second => reply,
    };
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, "2"));
    assert!(reply.text().contains("too many requests"), "{}", reply.text());
    assert_eq!(control.requests(), 1);
}

#[tokio::test]
async fn what_control_may_have_begun_is_not_sent_again() {
    let (platform, node, control) = edge_with(App::slow(Duration::from_secs(60))).await;
    for method in [Method::POST, Method::GET] {
        let before = control.requests();
        let sending = fetch(&platform, &node, request(method, "/v1/apps").body(bytes("{}")).unwrap());
        let killing = async {
            eventually("control has the request", async || control.requests() > before).await;
            control.kill();
            control.start().await;
        };
        let (reply, ()) = tokio::join!(sending, killing);
        assert_eq!(reply.status, 502);
        assert!(reply.text().starts_with(r#"{"error":""#), "{}", reply.text());
        assert_eq!(control.requests(), before + 1);
    }
}

#[tokio::test]
async fn what_may_be_repeated_survives_a_kept_connection_that_breaks() {
    // Control answers every request but the second.
    let app = App::new(|facts, _| async move {
        if facts.requests.load(Ordering::SeqCst) == 2 {
            std::future::pending::<()>().await;
        }
        Response::new(full("done"))
    });
    let (platform, node, control) = edge_with(app).await;
    let get = || request(Method::GET, "/v1/apps").body(bytes("")).unwrap();
    assert_eq!(fetch(&platform, &node, get()).await.text(), "done");
    let breaking = async {
        eventually("control has the second", async || control.requests() == 2).await;
        control.break_connections();
    };
    let (reply, ()) = tokio::join!(fetch(&platform, &node, get()), breaking);
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "done"));
    assert_eq!(control.requests(), 3);
}

#[tokio::test]
async fn without_tls_and_from_private_networks_there_is_no_api() {
    let (platform, node, control) = edge_with(App::hello()).await;
    let plain = Client::new(node.http, HOST).get("/v1/apps").await;
    assert_eq!((plain.status.as_u16(), plain.header("location")), (403, ""));
    assert!(plain.text().contains("over HTTPS alone"), "{}", plain.text());
    assert!(is_reset(node.private).await, "a connection was not refused");
    // An app of that name, made before the name was the platform's, does not shadow it.
    let app = platform.app("api");
    let machine = Machine::started("m1", App::hello()).await;
    platform.host(&node, &app, &machine);
    let reply = fetch(&platform, &node, request(Method::GET, "/").body(bytes("")).unwrap()).await;
    assert_eq!(reply.text(), "control 0");
    assert_eq!(control.requests(), 1);
}
