//! Machines that sleep: started by the first request, stopped when nobody comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atoll_model::GoDuration;
use atoll_model::row::MachineRow;
use atoll_model::service::Autostop;
use atoll_proxy::surroundings::WakeError;

use crate::support::{App, Client, Machine, Platform, eventually};

#[tokio::test]
async fn a_hundred_requests_wake_a_machine_once() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.cores = 2);
    let app = platform.app("web");
    let machine = Machine::stopped("m1", App::hello()).await;
    platform.host(&ams, &app, &machine);
    *ams.worker.start_time.lock().unwrap() = Duration::from_millis(100);
    let requests: Vec<_> = (0..100)
        .map(|_| tokio::spawn(async move { Client::new(ams.http, "web.localhost").post("/", "x").await }))
        .collect();
    for reply in requests {
        assert_eq!(reply.await.unwrap().text(), "m1 1");
    }
    assert_eq!(ams.worker.wakes.load(Ordering::SeqCst), 1);
    assert_eq!(machine.requests(), 100);
}

#[tokio::test]
async fn a_machine_elsewhere_is_woken_by_its_own_node() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let machine = Machine::stopped("m1", App::hello()).await;
    platform.host(&nrt, &app, &machine);
    let reply = Client::new(ams.http, "web.localhost").post("/", "x").await;
    assert_eq!(reply.text(), "m1 1");
    assert_eq!((ams.worker.wakes.load(Ordering::SeqCst), nrt.worker.wakes.load(Ordering::SeqCst)), (0, 1));
    Client::new(ams.http, "web.localhost").get("/").await;
    eventually("both requests are in the log", async || ams.log.entries.lock().unwrap().len() == 2).await;
    let waited: Vec<bool> = ams.log.entries.lock().unwrap().iter().map(|entry| entry.wake.is_some()).collect();
    assert_eq!(waited, [true, false], "the log of the entering edge says which request waited");
    assert_eq!(nrt.edge().counters().wake_time.measured().count(), 1);
}

#[tokio::test]
async fn a_woken_machine_serves_even_while_the_catalogue_still_says_stopped() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let machine = Machine::stopped("m1", App::hello()).await;
    platform.host(&ams, &app, &machine);
    *ams.worker.publishes.lock().unwrap() = false;
    let client = Client::new(ams.http, "web.localhost");
    for _ in 0..5 {
        assert_eq!(client.get("/").await.text(), "m1 0");
    }
    assert_eq!(ams.worker.wakes.load(Ordering::SeqCst), 1);
    machine.kill();
    assert_eq!(client.get("/").await.text(), "m1 0", "a machine that died unseen is started again");
}

#[tokio::test]
async fn without_autostart_nothing_is_woken() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.timeouts.hold = Duration::from_millis(100));
    let app = platform.app("web");
    let machine = Machine::stopped("m1", App::hello()).await;
    platform.host_with(&ams, &app, &machine, |row| {
        Arc::get_mut(&mut row.services).unwrap()[0].service.autostart = Some(false);
    });
    let reply = Client::new(ams.http, "web.localhost").get("/").await;
    assert_eq!(reply.status, 503);
    assert_eq!(ams.worker.wakes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn another_machine_serves_when_one_cannot_be_woken() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let broken = Machine::stopped("broken", App::hello()).await;
    let id = platform.host(&ams, &app, &broken);
    let good = Machine::started("good", App::hello()).await;
    platform.host(&nrt, &app, &good);
    *ams.worker.refuses.lock().unwrap() = Some(WakeError::Failed { machine: id, reason: "no image".into() });
    let reply = Client::new(ams.http, "web.localhost").post("/", "x").await;
    assert_eq!(reply.text(), "good 1");
}

fn stops_after(row: &mut MachineRow, autostop: Autostop, idle_ms: u64) {
    let service = &mut Arc::get_mut(&mut row.services).unwrap()[0].service;
    service.autostop = Some(autostop);
    service.idle_timeout = Some(GoDuration::from_millis(idle_ms));
}

#[tokio::test]
async fn in_the_primary_region_the_minimum_keeps_running() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app_with("web", |app| app.primary_region = Some("ams".parse().unwrap()));
    let mut machines = Vec::new();
    for node in [&ams, &ams, &nrt] {
        let machine = Machine::started("m", App::hello()).await;
        platform.host_with(node, &app, &machine, |row| {
            stops_after(row, Autostop::Stop, 50);
            Arc::get_mut(&mut row.services).unwrap()[0].service.min_machines_running = Some(1);
        });
        machines.push(machine);
    }
    let running = || machines.iter().map(|machine| machine.is_running()).collect::<Vec<_>>();
    eventually("all but one are stopped", async || running() == [true, false, false]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(machines[0].is_running(), "the minimum was stopped");
}

#[tokio::test]
async fn an_idle_machine_stops_and_the_next_request_wakes_it() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::slow(Duration::from_millis(200))).await;
    let id = platform.host_with(&ams, &app, &machine, |row| stops_after(row, Autostop::Suspend, 100));
    let client = Client::new(ams.http, "web.localhost");
    assert_eq!(client.get("/").await.text(), "m1", "a request longer than the idle time is not idleness");
    eventually("it is stopped", async || !machine.is_running()).await;
    assert_eq!(*ams.worker.idles.lock().unwrap(), [(id, true)]);
    assert_eq!(client.get("/").await.text(), "m1");
}

#[tokio::test]
async fn no_request_is_lost_between_stopping_and_waking() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| {
        config.timeouts.idle_check = Duration::from_millis(1);
        config.cores = 2;
    });
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::hello()).await;
    // As mean as possible: it is stopped whenever nobody is inside.
    platform.host_with(&ams, &app, &machine, |row| stops_after(row, Autostop::Stop, 0));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let entry = if sender % 2 == 0 { ams.http } else { nrt.http };
            tokio::spawn(async move {
                for number in 0..25 {
                    let reply = Client::new(entry, "web.localhost").post("/", "x").await;
                    assert_eq!(reply.text(), "m1 1", "request {number} of sender {sender}");
                    tokio::time::sleep(Duration::from_millis(number % 7)).await;
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    assert_eq!(machine.requests(), 100);
    assert!(!ams.worker.idles.lock().unwrap().is_empty(), "it was never stopped");
}

#[tokio::test]
async fn load_is_counted_and_reported() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let app = platform.app("web");
    let machine = Machine::started("m1", App::slow(Duration::from_millis(400))).await;
    platform.host(&ams, &app, &machine);
    let requests: Vec<_> =
        (0..3).map(|_| tokio::spawn(async move { Client::new(ams.http, "web.localhost").get("/").await })).collect();
    let load = || ams.worker.loads.lock().unwrap().first().map(|load| load.loads.clone());
    eventually("three are reported", async || load() == Some(vec![3])).await;
    for request in requests {
        request.await.unwrap();
    }
    eventually("none are reported", async || load() == Some(vec![0])).await;
}

#[tokio::test]
async fn a_start_that_takes_long_is_waited_for_only_without_another_machine() {
    let platform = Platform::new();
    let ams = platform.node_with("ams1", "ams", |config| config.timeouts.wake_patience = Duration::from_millis(50));
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let slow = Machine::stopped("slow", App::hello()).await;
    platform.host(&ams, &app, &slow);
    *ams.worker.start_time.lock().unwrap() = Duration::from_millis(400);
    let client = Client::new(ams.http, "web.localhost");
    assert_eq!(client.post("/", "x").await.text(), "slow 1");
    assert_eq!(ams.worker.wakes.load(Ordering::SeqCst), 1);
    let other = platform.app("other");
    let (never, there) = (Machine::stopped("never", App::hello()).await, Machine::started("there", App::hello()).await);
    platform.host(&ams, &other, &never);
    platform.host(&nrt, &other, &there);
    *ams.worker.start_time.lock().unwrap() = Duration::from_secs(3600);
    assert_eq!(Client::new(ams.http, "other.localhost").post("/", "x").await.text(), "there 1");
}

#[tokio::test]
async fn while_the_worker_is_away_requests_for_a_stopped_machine_wait_for_it() {
    let platform = Platform::new();
    let ams = platform.node("ams1", "ams");
    let nrt = platform.node("nrt1", "nrt");
    let app = platform.app("web");
    let machine = Machine::stopped("m1", App::hello()).await;
    platform.host(&ams, &app, &machine);
    *ams.worker.refuses.lock().unwrap() = Some(WakeError::Unavailable("it was killed".into()));
    let requests: Vec<_> = [ams.http, nrt.http]
        .map(|entry| tokio::spawn(async move { Client::new(entry, "web.localhost").post("/", "x").await }))
        .into();
    eventually("both ask for it", async || ams.worker.wakes.load(Ordering::SeqCst) >= 4).await;
    *ams.worker.refuses.lock().unwrap() = None;
    for reply in requests {
        assert_eq!(reply.await.unwrap().text(), "m1 1");
    }
    assert_eq!(machine.requests(), 2);
}
