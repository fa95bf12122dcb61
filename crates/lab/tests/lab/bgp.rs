//! Worlds of autonomous systems: which node a client reaches is what BGP says.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use atoll_lab::Lab;
use atoll_lab::routes::RouteWatch;

use crate::support::{LIMIT, SERVICE, eventually, start};

/// Two access networks below a carrier, a node in each; `west` also sells transit to a small network
/// that lies in Amsterdam, next to the other's node.
const SMALL: &str = r#"
[defaults]
links = "listed"

[[as]]
number = 65001
name = "platform"
[[as]]
number = 64512
name = "carrier"
[[as]]
number = 64513
name = "east"
[[as]]
number = 64514
name = "west"
[[as]]
number = 64515
name = "small"

[[host]]
name = "carrier"
city = "lhr"
role = "router"
as = 64512
[[host]]
name = "east"
city = "ams"
role = "router"
as = 64513
[[host]]
name = "west"
city = "iad"
role = "router"
as = 64514
[[host]]
name = "small"
city = "ams"
role = "router"
as = 64515
[[host]]
name = "ams"
city = "ams"
role = "node"
as = 65001
speaker = "lab"
[[host]]
name = "iad"
city = "iad"
role = "node"
as = 65001
speaker = "lab"
[[host]]
name = "near"
city = "ams"
role = "client"
[[host]]
name = "odd"
city = "ams"
role = "client"

[[link]]
a = "carrier"
b = "east"
peering = "transit"
[[link]]
a = "carrier"
b = "west"
peering = "transit"
[[link]]
a = "carrier"
b = "small"
peering = "transit"
[[link]]
a = "west"
b = "small"
peering = "transit"
[[link]]
a = "east"
b = "ams"
password = "between-us"
[[link]]
a = "west"
b = "iad"
[[link]]
a = "east"
b = "near"
[[link]]
a = "small"
b = "odd"
"#;

/// Waits until what a host sends to the service address goes this way.
async fn goes(lab: &Lab, from: &str, way: &[&str]) {
    let mut last = String::new();
    for _ in 0..(LIMIT.as_millis() / 50) {
        match lab.trace(from, SERVICE).await {
            Ok(path) if path == way => return,
            Ok(path) => last = path.join(" -> "),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{from} should go by {}, but: {last}", way.join(" -> "));
}

/// How long it takes to connect to the service address at a node.
async fn connect(lab: &Lab, from: &str, node: &str) -> Duration {
    let serving = lab.host(node).unwrap().in_network(|| TcpListener::bind((SERVICE, 80))).await.unwrap().unwrap();
    let from = lab.host(from).unwrap();
    let connecting = from.in_network(|| {
        let began = Instant::now();
        TcpStream::connect_timeout(&(SERVICE, 80).into(), LIMIT).map(|_| began.elapsed())
    });
    let taken = connecting.await.unwrap().unwrap();
    drop(serving);
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_node_by_path_serves_and_faults_move_clients() {
    let lab = start(SMALL).await;
    goes(&lab, "near", &["near", "east", "ams"]).await;
    // The node in Amsterdam is nearer, but three networks away: small, carrier, east.
    goes(&lab, "odd", &["odd", "small", "west", "iad"]).await;

    let east = lab.host("east").unwrap();
    let mut watch = RouteWatch::begin(&east).await.unwrap();
    let cut = Instant::now();
    lab.cut("east", "ams").await.unwrap();
    let service = Ipv4Addr::new(198, 51, 100, 0);
    let moved = watch.until(LIMIT, |change| change.address == service && change.length == 24).await.unwrap();
    println!("the cut link's route left after {:?}", moved.at - cut);
    goes(&lab, "near", &["near", "east", "carrier", "west", "iad"]).await;
    lab.heal_all().await.unwrap();
    goes(&lab, "near", &["near", "east", "ams"]).await;

    lab.host("iad").unwrap().withdraw().await.unwrap();
    goes(&lab, "odd", &["odd", "small", "carrier", "east", "ams"]).await;
    lab.host("iad").unwrap().announce().await.unwrap();
    goes(&lab, "odd", &["odd", "small", "west", "iad"]).await;

    lab.host("iad").unwrap().kill().await.unwrap();
    goes(&lab, "odd", &["odd", "small", "carrier", "east", "ams"]).await;
    lab.host("iad").unwrap().boot().await.unwrap();
    goes(&lab, "odd", &["odd", "small", "west", "iad"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_link_comes_and_goes_until_healed() {
    let lab = start(SMALL).await;
    goes(&lab, "near", &["near", "east", "ams"]).await;
    let mut watch = RouteWatch::begin(&lab.host("east").unwrap()).await.unwrap();
    lab.flap("east", "ams", Duration::from_secs(3)).await.unwrap();
    let service = Ipv4Addr::new(198, 51, 100, 0);
    for via in ["10.77.0.1", "10.77.0.5", "10.77.0.1"] {
        let wanted = Some(via.parse().unwrap());
        watch
            .until(LIMIT, |change| change.address == service && !change.deleted && change.via == wanted)
            .await
            .unwrap();
    }
    lab.heal("ams", "east").await.unwrap();
    goes(&lab, "near", &["near", "east", "ams"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_host_computes_until_relieved() {
    let lab = start(SMALL).await;
    let host = lab.host("ams").unwrap();
    let hogs = || fs::read_dir("/proc").unwrap().flatten().filter(is_hog).count();
    fn is_hog(process: &fs::DirEntry) -> bool {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        // The number of threads is this test's own.
        words.ends_with(b"hog\x003\0") && !words.windows(6).any(|word| word == b"enter\0")
    }
    host.overload(3).await.unwrap();
    assert_eq!(host.status().unwrap().overload, 3);
    eventually("it computes", async || (hogs() == 1).then_some(())).await;
    host.overload(0).await.unwrap();
    eventually("it rests", async || (hogs() == 0).then_some(())).await;
    assert!(host.overload(1000).await.unwrap_err().to_string().contains("up to"));
}

/// Resident memory of every process of a lab, in megabytes: those in its control groups, and the relay.
fn resident(lab: &Lab) -> u64 {
    let mark = format!("atl-{}", lab.status().id);
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let own = processes
        .filter(|process| fs::read_to_string(process.path().join("cgroup")).is_ok_and(|groups| groups.contains(&mark)));
    let kilobytes = own.filter_map(|process| {
        let status = fs::read_to_string(process.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    kilobytes.sum::<u64>() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_world_of_twelve_nodes_converges_and_is_small() {
    let lab = start(include_str!("../../../../worlds/anycast.toml")).await;
    for (client, way) in [
        ("berlin", &["berlin", "eu", "ams-1"][..]),
        ("chicago", &["chicago", "us-mid", "ord-1"]),
        ("osaka", &["osaka", "jp", "nrt-1"]),
        ("mumbai", &["mumbai", "in", "bom-1"]),
        ("cape-town", &["cape-town", "za", "eu", "ams-1"]),
    ] {
        goes(&lab, client, way).await;
    }
    // Cape Town to Amsterdam and back, over cables.
    let taken = connect(&lab, "cape-town", "ams-1").await.as_millis();
    assert!((150..400).contains(&taken), "{taken} ms");
    lab.cut("za", "eu").await.unwrap();
    eventually("nobody serves Cape Town", async || lab.trace("cape-town", SERVICE).await.is_err().then_some(())).await;
    lab.cut("in", "bom-1").await.unwrap();
    eventually("Mumbai is served by another region", async || {
        let path = lab.trace("mumbai", SERVICE).await.ok()?;
        path.last().is_some_and(|node| node != "bom-1").then_some(())
    })
    .await;
    let megabytes = resident(&lab);
    println!("the world takes {megabytes} MB");
    assert!(megabytes < 3072, "{megabytes} MB");
}
