//! The steps, each with what it claims.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use atoll_lab::address::SERVICE_ADDRESS;
use atoll_model::MachineState;

use super::moves::Watcher;
use super::traffic::counts;
use super::{APP, Demo, NEAREST, REGIONS, tenths};
use crate::guard::{PREFIX, changed_within, time_until_changed};
use crate::inside::Inside;
use crate::platform::{MachineSpec, Release, Role, SOON, Seen, see};
use crate::slow_link;
use crate::visit::{Ask, ask};

const EVERYBODY: [&str; 4] = ["berlin", "osaka", "chicago", "mumbai"];
/// The link over which a place in Europe reaches one in America.
const TRANSATLANTIC: (&str, &str) = ("europe", "america");
/// By when a frozen node's route must be gone, on a busy machine; `make bench` holds it to its budget.
const WITHDRAWN: Duration = Duration::from_secs(2);
/// A route that has not changed for so long will stay, and no request waits longer: what became of those that
/// were lost is known then.
const STEADY: Duration = Duration::from_secs(11);

/// The name leads every client to one address, BGP to the place near it, where edge and machine answer.
pub async fn served(demo: &Demo) -> anyhow::Result<Value> {
    let begun = demo.traffic.now();
    let mut seen_from = serde_json::Map::new();
    for (client, nearest) in NEAREST {
        let told = demo.announced.resolve(client, &demo.site).await?;
        ensure!(told == [SERVICE_ADDRESS], "{client} is told {told:?}");
        let way = demo.announced.way(client).await?;
        let seen = see(&demo.platform().host(client)?, &Ask::get(&demo.site, "/")).await?;
        let near = nearest.is_none_or(|region| seen.edge == region && seen.who.region == region);
        ensure!(near, "{client} was served by edge {} and a machine in {}", seen.edge, seen.who.region);
        ensure!(way.last() == Some(&seen.edge), "{client} was served by edge {}, BGP leads by {way:?}", seen.edge);
        let (machine, took) = (seen.who.machine, ms(seen.took));
        let detail = json!({"way": way, "edge": seen.edge, "machine": machine, "region": seen.who.region, "ms": took});
        seen_from.insert(client.to_owned(), detail);
    }
    demo.traffic.more(50).await?;
    Ok(json!({"from": seen_from, "load": demo.traffic.unharmed(&begun, &EVERYBODY)?}))
}

/// A machine reaches one on another continent by its private name, through the mesh.
pub async fn private_name(demo: &Demo) -> anyhow::Result<Value> {
    let platform = demo.platform();
    let begun = demo.traffic.now();
    let machines = platform.client().machines(APP).await?;
    let near = machines.iter().find(|machine| machine.region.as_str() == "ams").context("no machine in ams")?;
    let id = near.id.to_string();
    let inside = Inside::new(platform.node("ams")?, &id);
    let everywhere = inside.resolve(&format!("{APP}.internal")).await?;
    ensure!(everywhere.len() == REGIONS.len(), "{APP}.internal leads to {everywhere:?}");
    let name = format!("nrt.{APP}.internal");
    let (who, took) = inside.get_by_name(&name).await?;
    ensure!(who.region == "nrt" && who.machine != id, "{name} was answered by {who:?}");
    Ok(json!({
        "from": id,
        "name": name,
        "answered_by": who.machine,
        "region": who.region,
        "ms": ms(took),
        "load": demo.traffic.unharmed(&begun, &EVERYBODY)?,
    }))
}

/// An idle machine stops, and a request wakes it.
pub async fn woken(demo: &Demo) -> anyhow::Result<Value> {
    let platform = demo.platform();
    let begun = demo.traffic.now();
    let site = platform.create_app("sleepy").await?;
    let running = platform.node("ams")?.processes("hello").await?;
    let release = Release { name: "sleepy", idle: Some("3s"), ..Release::default() };
    let said = platform.deploy("sleepy", &release, &["ams"]).await?;
    ensure!(said.code == Some(0), "the deploy failed: {}", said.stderr);
    let before = platform.served("berlin", &site).await?;
    let machine = platform.in_state("sleepy", &before.who.machine, MachineState::Stopped).await?;
    let left = platform.node("ams")?.processes("hello").await?;
    ensure!(left == running, "its process is still there: {left} instead of {running}");
    let after = see(&platform.host("berlin")?, &Ask::get(&site, "/")).await?;
    ensure!(after.who.machine == before.who.machine, "another machine answered: {after:?}");
    ensure!(after.who.boot_id != before.who.boot_id, "it had never stopped: {after:?}");
    Ok(json!({
        "api_said": machine.state.as_str(),
        "wake_ms": ms(after.took),
        "boot_ids": [before.who.boot_id, after.who.boot_id],
        "load": demo.traffic.unharmed(&begun, &EVERYBODY)?,
    }))
}

/// The agent that runs a node's machines is killed; nobody notices, the machines least of all.
pub async fn agent_killed(demo: &Demo) -> anyhow::Result<Value> {
    let traffic = &demo.traffic;
    let calm = traffic.now();
    traffic.more(30).await?;
    let boots = traffic.collect(&calm, |shot| shot.boot_id.clone());
    let counter = traffic.collect(&calm, |shot| shot.counter).last().copied();

    let begun = traffic.now();
    let node = demo.platform().node("ams")?;
    let old = node.kill(Role::Worker).await?;
    let new = node.replaced(Role::Worker, old).await?;
    traffic.more(100).await?;
    let after = traffic.collect(&begun, |shot| shot.boot_id.clone());
    ensure!(after == boots, "boot ids changed from {boots:?} to {after:?}");
    let went_on = traffic.collect(&begun, |shot| shot.counter).last().copied();
    ensure!(went_on > counter, "the counters did not go on: {counter:?}, {went_on:?}");
    let load = traffic.unharmed(&begun, &EVERYBODY)?;
    Ok(json!({"old_pid": old, "new_pid": new, "boot_ids": after, "counter": [counter, went_on], "load": load}))
}

/// Without control, a request wakes a stopped machine and a crashed one leaves the routing.
pub async fn control_killed(demo: &Demo) -> anyhow::Result<Value> {
    let platform = demo.platform();
    let begun = demo.traffic.now();
    let berlin = platform.host("berlin")?;
    let sleeper = platform.create_app("sleeper").await?;
    let spec = MachineSpec { region: "ams", restart: "no", ..MachineSpec::default() };
    let asleep = platform.create_machine("sleeper", &spec).await?;
    let before = platform.served("berlin", &sleeper).await?;
    platform.stop_machine("sleeper", &asleep).await?;
    let pair = platform.create_app("pair").await?;
    for _ in 0..2 {
        let machine = platform.create_machine("pair", &spec).await?;
        platform.served_as("berlin", &pair, |seen| seen.who.machine == machine).await?;
    }

    let node = platform.node("ams")?;
    let old = node.kill(Role::Control).await?;
    let woken = see(&berlin, &Ask::get(&sleeper, "/")).await?;
    ensure!(woken.who.machine == asleep && woken.who.boot_id != before.who.boot_id, "not woken: {woken:?}");
    let old = node.replaced(Role::Control, old).await?;
    node.kill(Role::Control).await?;
    // A crash has no answer.
    drop(ask(&berlin, &Ask::post(&pair, "/crash")).await);
    let mut answered = BTreeSet::new();
    for _ in 0..20 {
        answered.insert(see(&berlin, &Ask::get(&pair, "/")).await?.who.machine);
    }
    ensure!(answered.len() == 1, "more machines answered than live: {answered:?}");
    node.replaced(Role::Control, old).await?;
    let load = demo.traffic.unharmed(&begun, &EVERYBODY)?;
    Ok(json!({"wake_ms": ms(woken.took), "answered_after_crash": answered, "load": load}))
}

/// Three bad releases are refused and a good one goes out; nobody notices.
pub async fn bad_release(demo: &Demo) -> anyhow::Result<Value> {
    let (platform, traffic) = (demo.platform(), &demo.traffic);
    let calm = traffic.now();
    traffic.more(30).await?;
    let boots = traffic.collect(&calm, |shot| shot.boot_id.clone());
    let begun = traffic.now();
    let mut refused = serde_json::Map::new();
    let bad = [
        ("exits_at_once", ("HELLO_EXIT_AT_START", "7")),
        ("never_listens", ("HELLO_NEVER_LISTEN", "1")),
        ("fails_its_check", ("HELLO_CHECK_STATUS", "500")),
    ];
    for (what, knob) in bad {
        let started = Instant::now();
        let said = platform.deploy(APP, &Release { name: "bad", env: &[knob], ..Release::default() }, &[]).await?;
        ensure!(said.code == Some(1), "one that {what} ended with {:?}: {}", said.code, said.stderr);
        refused.insert(what.to_owned(), json!({"ms": started.elapsed().as_millis() as u64}));
    }
    traffic.more(30).await?;
    let after = traffic.collect(&begun, |shot| shot.boot_id.clone());
    ensure!(after == boots, "boot ids changed from {boots:?} to {after:?}");

    let started = Instant::now();
    let said = platform.deploy(APP, &Release { name: "two", ..Release::default() }, &[]).await?;
    ensure!(said.code == Some(0), "the good release ended with {:?}: {}", said.code, said.stderr);
    let good_ms = started.elapsed().as_millis() as u64;
    traffic.more(30).await?;
    let releases = traffic.collect(&begun, |shot| shot.release.clone());
    ensure!(releases == BTreeSet::from(["one".into(), "two".into()]), "releases seen: {releases:?}");
    let load = traffic.unharmed(&begun, &EVERYBODY)?;
    Ok(json!({"refused": refused, "good_ms": good_ms, "releases_seen": releases, "load": load}))
}

/// A node freezes where it stands: its neighbour's kernel loses the route, its users arrive elsewhere, and at
/// this node again once it goes on.
pub async fn withdrawn(demo: &Demo) -> anyhow::Result<Value> {
    let begun = demo.traffic.now();
    let moves = Watcher::begin(&demo.announced).await?;
    let (host, guard) = (demo.platform().host("ord")?, demo.announced.guard("ord")?);
    let mut watch = guard.watch().await?;
    let frozen = Instant::now();
    let gone = time_until_changed(&mut watch, PREFIX.0, async || Ok(host.pause().await?)).await;
    let away = demo.announced.goes("chicago", &demo.site, |seen| seen.edge != "ord").await;
    let elsewhere_ms = frozen.elapsed().as_millis() as u64;
    let resumed = Instant::now();
    // Whatever came before: the other steps need it.
    host.resume().await?;
    let (gone, (away, _)) = (gone?, away?);
    guard.announced().await?;
    let announced_ms = resumed.elapsed().as_millis() as u64;
    let at_home = |seen: &Seen| seen.edge == "ord" && seen.who.region == "ord";
    demo.announced.goes("chicago", &demo.site, at_home).await?;
    let back_ms = resumed.elapsed().as_millis() as u64;
    // Of a place that was frozen, bird's BFD session ends once more before it lasts.
    let steady = async { while changed_within(&mut watch, PREFIX.0, STEADY).await.is_some() {} };
    tokio::time::timeout(SOON, steady).await.context("the route does not become steady")?;
    demo.announced.goes("chicago", &demo.site, at_home).await?;
    ensure!(gone <= WITHDRAWN, "the route was there for {gone:.1?}");
    demo.traffic.more(30).await?;
    // Connections to the frozen edge are lost with the route, those to the other one with its return.
    let lost = demo.traffic.lost_by_moving(&begun, &moves)?;
    demo.traffic.unharmed(&begun, &["berlin", "osaka"])?;
    Ok(json!({
        "route_gone_ms": gone.as_millis() as u64,
        "served_by": {"edge": away.edge, "region": away.who.region},
        "elsewhere_ms": elsewhere_ms,
        "announced_again_ms": announced_ms,
        "back_ms": back_ms,
        "lost_with_their_connection": lost,
        "load": counts(&demo.traffic.since(&begun)),
    }))
}

/// A node is cut off; its users are served elsewhere, and by it again once it is healed.
pub async fn node_cut(demo: &Demo) -> anyhow::Result<Value> {
    let platform = demo.platform();
    let begun = demo.traffic.now();
    let moves = Watcher::begin(&demo.announced).await?;
    let cut = Instant::now();
    platform.lab().isolate("nrt").await?;
    let away = platform.served_as("osaka", &demo.site, |seen| seen.who.region != "nrt").await?;
    let away_ms = cut.elapsed().as_millis() as u64;
    ensure!(away.edge != "nrt", "a cut off edge answered");
    let healed = Instant::now();
    platform.lab().heal_host("nrt").await?;
    platform.served_as("osaka", &demo.site, |seen| seen.edge == "nrt" && seen.who.region == "nrt").await?;
    let back_ms = healed.elapsed().as_millis() as u64;
    demo.traffic.more(30).await?;
    // Connections to the edge that was cut off are lost when their client is led elsewhere, those to the
    // other edge when it is led back; everything else is answered.
    let lost = demo.traffic.lost_by_moving(&begun, &moves)?;
    demo.traffic.unharmed(&begun, &["berlin", "chicago"])?;
    Ok(json!({
        "served_by": {"edge": away.edge, "region": away.who.region},
        "away_ms": away_ms,
        "back_ms": back_ms,
        "lost_with_their_connection": lost,
        "load": counts(&demo.traffic.since(&begun)),
    }))
}

/// The nearest machine's link becomes slow: traffic goes to the next nearest, and comes back.
pub async fn slow_link(demo: &Demo) -> anyhow::Result<Value> {
    let begun = demo.traffic.now();
    let site = slow_link::prepare(demo.platform()).await?;
    let followed = slow_link::slow_and_heal(demo.platform(), &site, TRANSATLANTIC).await?;
    Ok(json!({
        "before_ms": ms(followed.before),
        "moved_ms": followed.moved.as_millis() as u64,
        "back_ms": followed.back.as_millis() as u64,
        "load": demo.traffic.unharmed(&begun, &["berlin"])?,
    }))
}

fn ms(time: Duration) -> f64 {
    tenths(time.as_secs_f64() * 1e3)
}
