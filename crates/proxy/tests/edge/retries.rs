//! What a client never sees: refused connections, killed machines, stale catalogues. And what it must
//! never suffer: a request executed twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Method, Response};

use crate::support::http::{bytes, h1, read};
use crate::support::machine::full;
use crate::support::{App, Client, Machine, Platform, eventually};

#[tokio::test]
async fn a_post_goes_to_another_machine_when_one_refuses_connections() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let (dead, alive) = (Machine::started("dead", App::hello()).await, Machine::started("alive", App::hello()).await);
    platform.host(&ams, &app, &dead);
    platform.host(&ams, &app, &alive);
    dead.kill();
    for _ in 0..20 {
        let reply = Client::new(ams.http, "web.localhost").post("/", "x".repeat(70_000)).await;
        assert_eq!(reply.text(), "alive 70000");
    }
    assert_eq!(alive.requests(), 20);
    assert!(ams.edge().counters().retries.get() > 0);
}

#[tokio::test]
async fn a_post_is_never_executed_twice_and_a_get_is_tried_elsewhere() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let hanging = Machine::started("hanging", App::slow(Duration::from_secs(60))).await;
    let fallback = Machine::started("fallback", App::hello()).await;
    platform.host(&ams, &app, &hanging);
    platform.host_with(&ams, &app, &fallback, |row| row.cordoned = true);
    let client = Client::new(ams.http, "web.localhost");
    let (post, get) = (
        tokio::spawn({
            let client = client.clone();
            async move { client.post("/", "pay").await }
        }),
        tokio::spawn({
            let client = client.clone();
            async move { client.get("/").await }
        }),
    );
    eventually("both are at the first machine", async || hanging.requests() == 2).await;
    platform.catalogue.change_machine("00000000000002".parse().unwrap(), |row| row.cordoned = false);
    hanging.kill();
    let post = post.await.unwrap();
    assert_eq!((post.status.as_u16(), post.header("atoll-error")), (502, "PU02"));
    assert_eq!(get.await.unwrap().text(), "fallback 0");
    assert_eq!((hanging.requests(), fallback.requests()), (2, 1), "the POST was executed once, and only there");
}

#[tokio::test]
async fn posts_are_executed_exactly_once_while_machines_die_under_load() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let record = App::new(|facts, request| async move {
        let id = String::from_utf8(request.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        facts.seen.lock().unwrap().push(id);
        Response::new(full("done"))
    });
    let mut machines = Vec::new();
    for (index, node) in [&ams, &ams, &nrt, &nrt].into_iter().enumerate() {
        let machine = Machine::started(&format!("m{index}"), record.clone()).await;
        platform.host(node, &app, &machine);
        machines.push(machine);
    }
    let client = Client::new(ams.http, "web.localhost");
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut answered = Vec::new();
                for number in 0..100 {
                    let id = format!("{sender}-{number}");
                    let reply = client.post("/", id.clone()).await;
                    if reply.status == 200 {
                        answered.push(id);
                    } else {
                        assert_eq!(reply.status, 502, "{}", reply.text());
                    }
                }
                answered
            })
        })
        .collect();
    for machine in &machines[..3] {
        tokio::time::sleep(Duration::from_millis(30)).await;
        machine.kill();
    }
    let mut answered = Vec::new();
    for sender in senders {
        answered.extend(sender.await.unwrap());
    }
    let mut executed: Vec<String> =
        machines.iter().flat_map(|machine| machine.facts.seen.lock().unwrap().clone()).collect();
    let total = executed.len();
    executed.sort();
    executed.dedup();
    assert_eq!(executed.len(), total, "some POST was executed twice");
    assert!(answered.iter().all(|id| executed.binary_search(id).is_ok()), "an answered POST was not executed");
    assert!(answered.len() >= 390, "only {} of 400 were answered", answered.len());
}

#[tokio::test]
async fn a_stale_catalogue_is_bounced_back_and_the_client_notices_nothing() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let moved = Machine::started("moved", App::hello()).await;
    let there = Machine::started("there", App::hello()).await;
    let id = platform.host(&nrt, &app, &moved);
    platform.host(&nrt, &app, &there);
    ams.reaches(&nrt).await;
    ams.frozen.store(true, Ordering::SeqCst);
    platform.catalogue.change_machine(id, |row| row.cordoned = true);
    for _ in 0..20 {
        let reply = Client::new(ams.http, "web.localhost").post("/", "x".repeat(70_000)).await;
        assert_eq!(reply.text(), "there 70000");
        assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("atoll-")), "{:?}", reply.headers);
    }
    assert_eq!(moved.requests(), 0);
    assert!(nrt.edge().counters().bounced.get() > 0);
}

#[tokio::test]
async fn requests_are_held_until_a_machine_is_healthy() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.timeouts.backoff_min = Duration::from_secs(30));
    let app = platform.app("web");
    let machine = Machine::started("m1", App::hello()).await;
    let id =
        platform.host_with(&ams, &app, &machine, |row| Arc::get_mut(&mut row.services).unwrap()[0].healthy = false);
    let client = Client::new(ams.http, "web.localhost");
    let held: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get("/").await })
        })
        .collect();
    eventually("all are held", async || ams.edge().counters().held.get() == 50).await;
    platform.catalogue.change_machine(id, |row| {
        let mut services = row.services.to_vec();
        services[0].healthy = true;
        row.services = services.into();
    });
    for reply in held {
        assert_eq!(reply.await.unwrap().text(), "m1 0");
    }
}

#[tokio::test]
async fn who_is_held_too_long_gets_503_with_a_reason() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.timeouts.hold = Duration::from_millis(100));
    let app = platform.app("web");
    let machine = Machine::started("m1", App::hello()).await;
    platform.host_with(&ams, &app, &machine, |row| row.cordoned = true);
    let reply = Client::new(ams.http, "web.localhost").get("/").await;
    assert_eq!((reply.status.as_u16(), reply.header("atoll-error")), (503, "PR04"));
    assert!(reply.text().contains("cordoned"), "{}", reply.text());
}

#[tokio::test]
async fn at_the_hard_limit_requests_queue_and_are_all_served() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::slow(Duration::from_millis(10))).await;
    platform.host_with(&ams, &app, &machine, |row| {
        let service = &mut Arc::get_mut(&mut row.services).unwrap()[0].service;
        service.concurrency =
            serde_json::from_str(r#"{"type": "requests", "soft_limit": 1, "hard_limit": 2}"#).unwrap();
    });
    nrt.reaches(&ams).await;
    let requests: Vec<_> = (0..40)
        .map(|number| {
            let entry = if number % 2 == 0 { ams.http } else { nrt.http };
            tokio::spawn(async move { Client::new(entry, "web.localhost").get("/").await })
        })
        .collect();
    for reply in requests {
        assert_eq!(reply.await.unwrap().text(), "m1");
    }
    assert_eq!(machine.requests(), 40);
    assert!(machine.facts.most_open.load(Ordering::SeqCst) <= 2, "the hard limit was passed");
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_sent_once_and_then_given_up() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.limits.replay_bytes = 1000);
    let app = platform.app("web");
    let breaks = App::new(|_, request| async move {
        // Reads some of it and goes away.
        let mut body = request.into_body();
        body.frame().await;
        body.frame().await;
        panic!("this machine breaks on purpose")
    });
    let machine = Machine::started("m1", breaks).await;
    let other = Machine::stopped("other", App::hello()).await;
    platform.host(&ams, &app, &machine);
    platform.host(&ams, &app, &other);
    let client = Client::new(ams.http, "web.localhost");
    let pieces = futures_util::stream::iter((0..100).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; 4096])))));
    let request = client.request(Method::PUT, "/").body(StreamBody::new(pieces).boxed()).unwrap();
    let reply = client.fetch(request).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.header("atoll-error")), (502, "PA01"));
    assert_eq!(ams.edge().counters().replay_overflows.get(), 1);
}

#[tokio::test]
async fn connections_to_machines_are_reused_and_their_death_goes_unnoticed() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::hello()).await;
    platform.host_with(&ams, &app, &machine, |row| {
        let service = &mut Arc::get_mut(&mut row.services).unwrap()[0].service;
        service.concurrency = serde_json::from_str(r#"{"type": "requests"}"#).unwrap();
    });
    let client = Client::new(ams.http, "web.localhost");
    let mut sender = h1(tokio::net::TcpStream::connect(ams.http).await.unwrap()).await.unwrap();
    for round in 0..10 {
        for method in [Method::GET, Method::POST] {
            let request = client.request(method, "/").body(bytes("")).unwrap();
            sender.ready().await.unwrap();
            let reply = read(sender.send_request(request).await.unwrap()).await.unwrap();
            assert_eq!(reply.status, 200, "round {round}");
        }
        // Every pooled connection dies; the port is back at once.
        machine.kill();
        machine.start().await;
    }
    assert_eq!(machine.requests(), 20);
}

#[tokio::test]
async fn a_machine_that_closes_every_connection_is_given_up() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut rude = Arc::into_inner(Machine::stopped("rude", App::hello()).await).unwrap();
    rude.port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let polite = Machine::started("polite", App::hello()).await;
    platform.host_with(&ams, &app, &Arc::new(rude), |row| row.state = atoll_model::MachineState::Started);
    platform.host(&ams, &app, &polite);
    for _ in 0..20 {
        assert_eq!(Client::new(ams.http, "web.localhost").get("/").await.text(), "polite 0");
    }
}
