//! Which machine answers: here, there, the nearest, the next one.

use std::sync::atomic::Ordering;

use crate::support::{App, Client, Machine, Platform, eventually};

#[tokio::test]
async fn a_machine_of_this_node_answers() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::hello()).await;
    platform.host(&ams, &app, &machine);
    let reply = Client::new(ams.http, "web.localhost:8080").get("/").await;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, "m1 0"));
}

#[tokio::test]
async fn unknown_hosts_and_apps_without_service_are_told_so() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    platform.app("empty");
    let reply = Client::new(ams.http, "nothing.localhost").get("/").await;
    assert_eq!(reply.status, 404);
    let reply = Client::new(ams.http, "empty.localhost").get("/").await;
    assert_eq!((reply.status.as_u16(), reply.header("atoll-error")), (503, "PR04"));
}

#[tokio::test]
async fn a_machine_elsewhere_answers_when_there_is_none_here() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let machine = Machine::started("far", App::hello()).await;
    platform.host(&nrt, &app, &machine);
    let reply = Client::new(ams.http, "web.localhost").post("/", "12345").await;
    assert_eq!(reply.text(), "far 5");
}

#[tokio::test]
async fn the_nearest_region_is_used_and_traffic_moves_when_the_way_gets_longer() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let ord = platform.node("ord1", "ord");
    let app = platform.app("web");
    for (node, name) in [(&nrt, "nrt"), (&ord, "ord")] {
        let machine = Machine::started(name, App::hello()).await;
        std::mem::forget(machine.clone());
        platform.host(node, &app, &machine);
    }
    let to_nrt = platform.link(&ams, &nrt).await;
    let to_ord = platform.link(&ams, &ord).await;
    to_ord.delay_ms.store(10, Ordering::SeqCst);
    let client = Client::new(ams.http, "web.localhost");
    eventually("nrt is the nearest", async || client.get("/").await.text() == "nrt 0").await;
    to_nrt.delay_ms.store(60, Ordering::SeqCst);
    eventually("ord is the nearest", async || client.get("/").await.text() == "ord 0").await;
    to_nrt.delay_ms.store(0, Ordering::SeqCst);
    eventually("nrt is the nearest again", async || client.get("/").await.text() == "nrt 0").await;
    to_nrt.cut.store(true, Ordering::SeqCst);
    let reply = client.get("/").await;
    assert_eq!(reply.text(), "ord 0", "a request to a node that was cut off went elsewhere");
}
