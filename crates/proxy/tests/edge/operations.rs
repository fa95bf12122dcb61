//! What operators and apps rely on: headers, redirects, foreign peers, drain, change under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atoll_model::row::NodeState;
use bytes::Bytes;
use hyper::Method;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::http::{bytes, h1, read};
use crate::support::identity::{Authority, NodeTls};
use crate::support::{App, Client, Machine, Platform, eventually};

#[tokio::test]
async fn machines_are_told_what_is_documented_and_clients_too() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::mirror()).await;
    platform.host(&ams, &app, &machine);
    nrt.reaches(&ams).await;
    for (node, region) in [(&ams, "ams"), (&nrt, "nrt")] {
        let client = Client::new(node.http, "web.localhost");
        let request = client
            .request(Method::GET, "/path?query=1")
            .header("x-forwarded-for", "10.9.8.7")
            .header("fly-client-ip", "1.1.1.1")
            .header("fly-src", "forged")
            .header("atoll-port", "1")
            .header("fly-prefer-region", "ams")
            .header("cookie", "a=b")
            .body(bytes(""))
            .unwrap();
        let reply = client.fetch(request).await.unwrap();
        let id = reply.header("fly-request-id").to_owned();
        assert!(id.len() == 26 + 4 && id.ends_with(region), "{id}");
        let port = node.http.port();
        let expected = format!(
            "GET /path?query=1 HTTP/1.1\n\
             cookie: a=b\n\
             fly-client-ip: 127.0.0.1\n\
             fly-forwarded-port: {port}\n\
             fly-region: {region}\n\
             fly-request-id: {id}\n\
             host: web.localhost\n\
             via: 1.1 atoll\n\
             x-forwarded-for: 10.9.8.7, 127.0.0.1, 127.0.0.1\n\
             x-forwarded-port: {port}\n\
             x-forwarded-proto: http\n\
             x-forwarded-ssl: off"
        );
        assert_eq!(reply.text(), expected);
        let mut names: Vec<&str> = reply.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "date", "fly-request-id", "server", "via"]);
        let logged = || node.log.entries.lock().unwrap().iter().find(|entry| entry.request_id == id).cloned();
        eventually("the request is in the access log", async || logged().is_some()).await;
        let entry = logged().unwrap();
        assert_eq!((entry.status, entry.path.as_str(), entry.retries), (200, "/path", 0));
        assert_eq!(entry.response_bytes, expected.len() as u64);
        assert_eq!(entry.region, Some("ams".parse().unwrap()));
    }
}

#[tokio::test]
async fn a_preferred_machine_that_cannot_be_used_is_named() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::mirror()).await;
    platform.host(&ams, &app, &machine);
    let client = Client::new(ams.http, "web.localhost");
    let request =
        client.request(Method::GET, "/").header("fly-prefer-instance-id", "000000000000ff").body(bytes("")).unwrap();
    let reply = client.fetch(request).await.unwrap();
    assert!(reply.text().contains("\nfly-preferred-instance-unavailable: 000000000000ff\n"), "{}", reply.text());
    let request =
        client.request(Method::GET, "/").header("fly-force-instance-id", "000000000000ff").body(bytes("")).unwrap();
    assert_eq!(client.fetch(request).await.unwrap().status, 503);
}

#[tokio::test]
async fn https_can_be_forced_and_response_headers_set() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app_with("web", |app| app.hostnames = vec!["www.example.org".into()]);
    let machine = Machine::started("m1", App::hello()).await;
    let id = platform.host_with(&ams, &app, &machine, |row| {
        Arc::get_mut(&mut row.services).unwrap()[0].service.ports[0].force_https = true;
    });
    let reply = Client::new(ams.http, "www.example.org:8080").get("/a?b=c").await;
    assert_eq!(reply.status, 301);
    assert_eq!(reply.header("location"), format!("https://www.example.org:{}/a?b=c", ams.https.port()));
    platform.catalogue.change_machine(id, |row| {
        let mut services = row.services.to_vec();
        let port = &mut services[0].service.ports[0];
        port.force_https = false;
        let options =
            r#"{"response": {"pristine": true, "headers": {"date": false, "x-set": "1", "x-many": ["a", "b"]}}}"#;
        port.http_options = Some(serde_json::from_str(options).unwrap());
        row.services = services.into();
    });
    let reply = Client::new(ams.http, "www.example.org").get("/").await;
    assert_eq!((reply.header("x-set"), reply.headers.get_all("x-many").iter().count()), ("1", 2));
    assert!(reply.headers.get("fly-request-id").is_none() && reply.headers.get("via").is_none());
}

#[tokio::test]
async fn cordoned_machines_get_nothing() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let (one, two) = (Machine::started("one", App::hello()).await, Machine::started("two", App::hello()).await);
    platform.host_with(&ams, &app, &one, |row| row.cordoned = true);
    platform.host(&ams, &app, &two);
    for _ in 0..10 {
        assert_eq!(Client::new(ams.http, "web.localhost").get("/").await.text(), "two 0");
    }
    assert_eq!(one.requests(), 0);
}

#[tokio::test]
async fn peers_that_are_no_edges_of_the_platform_are_refused() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::hello()).await;
    platform.host(&nrt, &app, &machine);
    // One from another platform, one with a right certificate but no row, one that was revoked.
    platform.catalogue.change_node("ams1", |row| row.state = NodeState::Revoked);
    let strangers = [
        NodeTls::new(&Authority::new(), "ams1"),
        NodeTls::new(&platform.authority, "nobody"),
        NodeTls::new(&platform.authority, "ams1"),
    ];
    for (index, stranger) in strangers.into_iter().enumerate() {
        use atoll_proxy::surroundings::BackhaulTls;
        let stream = TcpStream::connect(nrt.backhaul).await.unwrap();
        let name = stranger.server_name(&"nrt1".parse().unwrap());
        let Ok(mut stream) = tokio_rustls::TlsConnector::from(stranger.client()).connect(name, stream).await else {
            continue;
        };
        let mut byte = [0];
        let refused = matches!(stream.read(&mut byte).await, Ok(0) | Err(_));
        assert!(refused, "stranger {index} was let in");
    }
    assert!(nrt.edge().counters().foreign_peers.get() >= 2);
    assert_eq!(machine.requests(), 0);
    drop(ams);
}

#[tokio::test]
async fn a_revoked_node_loses_its_connections() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.timeouts.hold = Duration::from_millis(300));
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::hello()).await;
    platform.host(&nrt, &app, &machine);
    let client = Client::new(ams.http, "web.localhost");
    assert_eq!(client.get("/").await.text(), "m1 0");
    // Only the receiving node knows.
    ams.frozen.store(true, Ordering::SeqCst);
    platform.catalogue.change_node("ams1", |row| row.state = NodeState::Revoked);
    eventually("its requests fail", async || client.get("/").await.status == 503).await;
}

#[tokio::test]
async fn an_edge_of_a_server_that_leaves_shows_its_users_the_way_out() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::hello()).await;
    platform.host(&ams, &app, &machine);
    let client = Client::new(ams.http, "web.localhost");
    let ask = || client.request(Method::GET, "/").body(bytes("")).unwrap();
    let mut busy = h1(TcpStream::connect(ams.http).await.unwrap()).await.unwrap();
    let mut idle = h1(TcpStream::connect(ams.http).await.unwrap()).await.unwrap();
    for kept in [&mut busy, &mut idle] {
        assert!(!read(kept.send_request(ask()).await.unwrap()).await.unwrap().headers.contains_key("connection"));
    }
    platform.catalogue.change_node("ams1", |row| row.state = NodeState::Draining);
    eventually("answers say that their connection ends", async || {
        client.get("/").await.header("connection") == "close"
    })
    .await;
    let last = read(busy.send_request(ask()).await.unwrap()).await.unwrap();
    assert_eq!((last.status.as_u16(), last.header("connection")), (200, "close"));
    eventually("idle connections are closed", async || idle.is_closed()).await;
    assert_eq!(client.get("/").await.status, 200, "it goes on serving");

    platform.catalogue.change_node("ams1", |row| row.state = NodeState::Active);
    eventually("connections are kept again", async || !client.get("/").await.headers.contains_key("connection")).await;
}

#[tokio::test]
async fn a_drain_loses_nothing_and_the_next_edge_goes_on() {
    let platform = Platform::new();
    let mut ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::slow(Duration::from_millis(20))).await;
    platform.host(&ams, &app, &machine);
    let stop = Arc::new(AtomicBool::new(false));
    let entry = ams.http;
    let load: Vec<_> = (0..4)
        .map(|sender| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let client = Client::new(entry, "web.localhost");
                let mut kept: Option<hyper::client::conn::http1::SendRequest<_>> = None;
                let mut count = 0;
                while !stop.load(Ordering::SeqCst) {
                    // Half on new connections, half kept alive until the edge says close.
                    if sender % 2 == 0 || kept.as_ref().is_none_or(|sender| sender.is_closed()) {
                        kept = Some(h1(TcpStream::connect(entry).await.unwrap()).await.unwrap());
                    }
                    let connection = kept.as_mut().unwrap();
                    let request = client.request(Method::POST, "/").body(bytes("x")).unwrap();
                    let reply = read(connection.send_request(request).await.unwrap()).await.unwrap();
                    assert_eq!(reply.status, 200);
                    if reply.header("connection") == "close" {
                        kept = None;
                    } else {
                        connection.ready().await.unwrap();
                    }
                    count += 1;
                }
                count
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let old = ams.edge.take().unwrap();
        assert_eq!(old.drain(Duration::from_secs(5)).await, 0, "connections were cut");
        platform.start_edge(&mut ams, |_| {});
    }
    stop.store(true, Ordering::SeqCst);
    for sender in load {
        assert!(sender.await.unwrap() > 10);
    }
}

#[tokio::test]
async fn catalogues_change_under_load_without_a_failed_request() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.cores = 2);
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let mut machines = Vec::new();
    for node in [&ams, &ams, &nrt] {
        let machine = Machine::started("m", App::hello()).await;
        machines.push((platform.host(node, &app, &machine), machine));
    }
    nrt.reaches(&ams).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = [ams.http, nrt.http, ams.http, nrt.http]
        .map(|entry| {
            let stop = stop.clone();
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(Client::new(entry, "web.localhost").post("/", "abc").await.text(), "m 3");
                }
            })
        })
        .into();
    for round in 0..150 {
        let (id, _) = machines[round % machines.len()];
        platform.catalogue.change_machine(id, |row| row.cordoned = !row.cordoned);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for sender in load {
        sender.await.unwrap();
    }
}

#[tokio::test]
async fn a_cordoned_machine_is_reported_closed_and_empty_only_when_the_last_request_has_ended() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let (busy, pour) = App::drip();
    let (first, second) = (Machine::started("m1", busy).await, Machine::started("m2", App::hello()).await);
    let id = platform.host(&ams, &app, &first);
    let client = Client::new(ams.http, "web.localhost");
    let stream = client.send(client.request(Method::GET, "/").body(bytes("")).unwrap());
    let answer = stream.await.unwrap();
    let unused = platform.host(&ams, &app, &second);
    for id in [id, unused] {
        platform.catalogue.change_machine(id, |row| row.cordoned = true);
    }
    let report = |id| {
        let loads = ams.worker.loads.lock().unwrap();
        loads.iter().find(|load| load.machine == id).map(|load| (load.closed, load.loads.iter().sum::<u32>()))
    };
    eventually("both are closed", async || (report(id), report(unused)) == (Some((true, 1)), Some((true, 0)))).await;
    pour.send(Bytes::new()).unwrap();
    read(answer).await.unwrap();
    eventually("the stream has ended", async || report(id) == Some((true, 0))).await;
    platform.catalogue.change_machine(id, |row| row.cordoned = false);
    eventually("it is open again", async || report(id) == Some((false, 0))).await;
}
