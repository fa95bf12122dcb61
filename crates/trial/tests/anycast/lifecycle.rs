//! A request from the name to the answer, where real BGP leads it.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use atoll_lab::address::SERVICE_ADDRESS;
use atoll_lab::place::distance_km;
use atoll_trial::guard::{PREFIX, time_until_changed};
use atoll_trial::lifecycle::{Announced, REQUEST_LIFECYCLE, TWO_CITIES};
use atoll_trial::platform::bridge::connect;

/// What a request may take on a busy machine, as a multiple of the delays of its links. The bench holds it
/// to 1.15.
const BUSY: u32 = 10;
/// By when users must be elsewhere; ten times the budget.
const ELSEWHERE: Duration = Duration::from_secs(5);
/// By when an edge says that it has no such connection; a client that is not told tries for minutes.
const TOLD: Duration = Duration::from_secs(1);

#[track_caller]
fn in_world(world: &str, test: impl AsyncFnOnce(&Announced) -> anyhow::Result<()>) {
    assert!(rustix::process::geteuid().is_root(), "these tests start servers in network namespaces: run them as root");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let announced = Announced::start(world).await.unwrap_or_else(|error| panic!("{error:#}"));
        if let Err(error) = test(&announced).await {
            let logs = announced.platform.keep_logs("lifecycle");
            panic!("{error:#}\nlogs: {logs:?}");
        }
    });
}

/// A request and its answer on a connection that is there.
async fn exchange(connection: &mut TcpStream, site: &str) -> std::io::Result<String> {
    connection.write_all(format!("GET / HTTP/1.1\r\nHost: {site}\r\n\r\n").as_bytes()).await?;
    let mut answer = vec![0; 16 << 10];
    let length = connection.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[test]
fn a_request_from_mumbai_enters_in_chennai_and_is_answered_in_bangalore() {
    in_world(REQUEST_LIFECYCLE, async |world| {
        let site = world.app("web", &["blr"]).await?;
        let (took, links) = world.mumbai_by_chennai(&site).await?;
        println!("answered after {took:.1?}, the links take {links:.1?}");
        ensure!(took <= links * BUSY, "it took {took:.1?}, the links {links:.1?}");

        world.machine("web", "maa").await?;
        let (_, taken_over) = world.goes("mumbai", &site, |seen| seen.who.region == "maa").await?;
        println!("a machine at the edge took over after {taken_over:.1?}");
        ensure!(taken_over <= ELSEWHERE, "only after {taken_over:.1?}");

        let mut watch = world.guard("maa")?.watch().await?;
        let gone =
            time_until_changed(&mut watch, PREFIX.0, async || Ok(world.platform.host("maa")?.kill().await?)).await?;
        let (seen, outage) = world.goes("mumbai", &site, |seen| seen.edge != "maa").await?;
        println!("the route was gone after {gone:.1?}, {} answered after {:.1?}", seen.edge, gone + outage);
        ensure!(seen.who.region == "blr", "{seen:?}");
        ensure!(gone + outage <= ELSEWHERE, "only after {:.1?}", gone + outage);
        Ok(())
    });
}

#[test]
fn users_of_two_cities_go_where_the_path_is_shortest() {
    in_world(TWO_CITIES, async |world| {
        let site = world.app("web", &["ewr", "lhr"]).await?;
        world.users_by_path(&site).await?;
        // On the map Paris is nearer to London.
        let place = |name: &str| world.world.hosts.iter().find(|host| host.name == name).map(|host| host.place);
        let distance = |to| place("paris").zip(place(to)).map(|(paris, to)| distance_km(paris, to));
        ensure!(distance("lhr") < distance("ewr"), "{:?} {:?}", distance("lhr"), distance("ewr"));

        let mut open = connect(&world.platform.host("berlin")?, (SERVICE_ADDRESS, 80).into()).await?;
        let answer = exchange(&mut open, &site).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");

        // Without the place in London all go to the other one.
        world.platform.lab().cut("lhr", "thames").await?;
        let (_, moved) = world.goes("berlin", &site, |seen| seen.edge == "ewr").await?;
        println!("Berlin was served by New York after {moved:.1?}");
        ensure!(moved <= ELSEWHERE, "only after {moved:.1?}");

        // A connection from before arrives at an edge that does not know it.
        let told = timeout(TOLD, exchange(&mut open, &site)).await.context("its end is not told")?;
        let kind = told.as_ref().map_err(std::io::Error::kind);
        ensure!(kind == Err(std::io::ErrorKind::ConnectionReset), "{told:?}");
        Ok(())
    });
}
