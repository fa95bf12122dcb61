//! The guard beside a real server, announcing to a real router in a lab world: what withdraws a place, and what
//! must not. Needs root.
//!
//! Times are printed, not held to the budget: that is the bench's task, on a machine that does nothing else.

mod lifecycle;

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use atoll_model::MachineState;
use atoll_model::wire::AddressPoolRequest;
use atoll_trial::guard::{APP_ADDRESS, Guard, PREFIX, WORLD, changed_within, next_hop, time_until_gone};
use atoll_trial::platform::{MachineSpec, Origin, Platform, Role};
use atoll_trial::wait::until;

/// On a machine that does much else.
const LIMIT: Duration = Duration::from_secs(20);
/// Withdrawing takes at most a few hundred milliseconds: after this long it will not come.
const QUIET: Duration = Duration::from_secs(2);

/// Runs a test with a server and a guard that announces; prints the guard's log if it fails.
#[track_caller]
fn with_guard(test: impl AsyncFnOnce(&mut Platform, &mut Guard) -> anyhow::Result<()>) {
    assert!(rustix::process::geteuid().is_root(), "these tests start servers in network namespaces: run them as root");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut platform = Platform::start(WORLD).await.unwrap();
        let (node, east) = (platform.host("ams").unwrap(), platform.host("east").unwrap());
        let mut guard = Guard::start(&node, &east).await.unwrap();
        let outcome = match guard.announced().await {
            Ok(()) => test(&mut platform, &mut guard).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let log = guard.log().unwrap_or_else(|error| error.to_string());
            panic!("{error:#}\nthe guard's log:\n{log}");
        }
    });
}

#[test]
fn a_place_that_does_not_serve_is_withdrawn_and_returns_when_it_does() {
    with_guard(async |platform, guard| {
        let node = platform.node("ams")?;
        let mut watch = guard.watch().await?;
        let edge = node.pid(Role::Edge)?;
        let gone = time_until_gone(&mut watch, PREFIX.0, async || node.signal(edge, "STOP").await).await?;
        println!("edge hung: gone after {gone:?}");
        ensure!(changed_within(&mut watch, PREFIX.0, QUIET).await.is_none(), "a hung edge was announced again");
        node.signal(edge, "CONT").await?;
        guard.announced().await?;

        shown(platform).await?;
        let bird = guard.pid("bird")?;
        let gone = time_until_gone(&mut watch, PREFIX.0, async || guard.signal(bird, "KILL").await).await?;
        println!("bird killed: gone after {gone:?}");
        guard.announced().await?;

        let pid = guard.pid("pid")?;
        let gone = time_until_gone(&mut watch, PREFIX.0, async || guard.signal(pid, "KILL").await).await?;
        println!("guard killed: gone after {gone:?}");
        guard.restart().await?;
        guard.announced().await?;

        let gone = time_until_gone(&mut watch, PREFIX.0, async || Ok(node.host().pause().await?)).await?;
        println!("node frozen: gone after {gone:?}");
        node.host().resume().await?;
        guard.announced().await?;

        let cut = time_until_gone(&mut watch, PREFIX.0, async || Ok(platform.lab().cut("east", "ams").await?)).await?;
        println!("link cut: gone after {cut:?}");
        platform.lab().heal_all().await?;
        guard.announced().await?;

        // With its supervisor: one that is started again at once, behind the same socket, is not missed.
        let node = platform.node_mut("ams")?;
        let edge = node.pid(Role::Edge)?;
        let gone = time_until_gone(&mut watch, PREFIX.0, async || {
            node.kill_supervisor().await?;
            node.signal(edge, "KILL").await
        })
        .await?;
        println!("edge killed for good: gone after {gone:?}");
        node.start(&Origin::First).await?;
        guard.announced().await?;

        let east = platform.host("east")?;
        guard.change_plan(|plan| plan["drain"] = json!({"places_left": 2}))?;
        until("a drained place is withdrawn", LIMIT, async || {
            ensure!(next_hop(&east, PREFIX.0).await?.is_none(), "it is announced");
            let report = guard.report()?;
            ensure!(report["reason"] == "draining", "{report}");
            Ok(())
        })
        .await?;
        Ok(())
    });
}

/// What the platform's operator sees of it, wherever they sit.
async fn shown(platform: &Platform) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let prefix = format!("{}/{}", PREFIX.0, PREFIX.1);
    let announcements = ["edge", "announcements"];
    until("the return is shown", LIMIT, async || {
        let shown = platform.atoll(folder.path(), &announcements).await?;
        let line = shown.stdout.lines().find(|line| line.contains(&prefix)).unwrap_or_default();
        ensure!(
            shown.code == Some(0) && line.starts_with("ams ") && line.contains(" east ") && line.contains("serves"),
            "{shown:?}"
        );
        Ok(())
    })
    .await?;
    let changes = platform.atoll(folder.path(), &[&announcements[..], &["--changes"]].concat()).await?;
    let lines = changes.stdout.lines().filter(|line| line.contains(&prefix) && !line.contains('~'));
    // On a busy machine a route may be liked less meanwhile, which is told with another sign.
    let kinds: Vec<char> = lines.filter_map(|line| line.chars().find(|c| matches!(c, '+' | '-'))).collect();
    ensure!(kinds.starts_with(&['+', '-', '+']), "{changes:?}");
    let json = platform.atoll(folder.path(), &[&announcements[..], &["--json"]].concat()).await?;
    let places: serde_json::Value = serde_json::from_str(&json.stdout)?;
    let told = &places[0]["report"]["announced"][&prefix]["east"];
    ensure!(places[0]["running"] == true && told["prepend"].is_u64(), "{places}");
    Ok(())
}

#[test]
fn nothing_else_withdraws_a_place() {
    with_guard(async |platform, guard| {
        let node = platform.node("ams")?;
        let mut watch = guard.watch().await?;
        node.kill(Role::Control).await?;
        node.kill(Role::Worker).await?;
        let (before, bird) = (guard.pid("pid")?, guard.pid("bird")?);
        guard.upgrade().await?;
        until("the newer program runs", LIMIT, async || {
            ensure!(guard.runs_latest()?, "the older one runs");
            ensure!(guard.log()?.contains("upgraded in place"), "the log does not say so");
            Ok(())
        })
        .await?;

        std::fs::remove_file(guard.plan_file())?;
        guard.write_plan(b"{\"generation\": 9")?;
        until("nonsense is refused", LIMIT, async || {
            let refused = guard.report()?["plan_refused"].as_str().unwrap_or_default().to_owned();
            ensure!(refused.contains("plan.json is no plan"), "it says {refused:?}");
            Ok(())
        })
        .await?;
        // Without a word why it is gone, and by somebody who has no other place.
        guard.change_plan(|plan| plan["prefixes"] = json!([]))?;
        let prefix = format!("{}/{}", PREFIX.0, PREFIX.1);
        guard.change_plan(|plan| plan["given_up"] = json!({(prefix): {"planned": {"places_left": 0}}}))?;
        until("a plan for the last place is refused", LIMIT, async || {
            let refused = guard.report()?["plan_refused"].as_str().unwrap_or_default().to_owned();
            ensure!(refused.contains("last place"), "it says {refused:?}");
            Ok(())
        })
        .await?;

        let change = changed_within(&mut watch, PREFIX.0, QUIET).await;
        ensure!(change.is_none(), "the route changed: {change:?}");
        ensure!((guard.pid("pid")?, guard.pid("bird")?) == (before, bird), "the processes are others");

        // What an upgrade took over goes on guarding.
        let gone = time_until_gone(&mut watch, PREFIX.0, async || guard.signal(before, "KILL").await).await?;
        println!("upgraded guard killed: gone after {gone:?}");
        Ok(())
    });
}

#[test]
fn an_apps_address_comes_and_goes_by_plan() {
    with_guard(async |_platform, guard| {
        let app = format!("{APP_ADDRESS}/32");
        let covering = guard.plan()["prefixes"].clone();
        let mut watch = guard.watch().await?;
        guard.change_plan(|plan| plan["prefixes"] = json!([covering[0], app]))?;
        watch.until(LIMIT, |change| change.address == APP_ADDRESS && change.length == 32 && !change.deleted).await?;
        let gone = time_until_gone(&mut watch, APP_ADDRESS, async || {
            guard.change_plan(|plan| {
                plan["prefixes"] = covering.clone();
                plan["given_up"] = json!({app.clone(): "nothing_serves"});
            })
        })
        .await?;
        println!("an app's address given up: gone after {gone:?}");
        guard.announced().await?;

        Ok(())
    });
}

#[test]
fn an_apps_address_follows_its_machines() {
    with_guard(async |platform, guard| {
        platform.create_app("hello").await?;
        let client = platform.client();
        let pool = AddressPoolRequest { prefix: format!("{APP_ADDRESS}/32"), local: true, shared: false };
        client.address_pool_add(&pool).await?;
        let given = client.address_assign("hello", &json!({"type": "v4", "local": true})).await?;
        ensure!(given["ip"] == APP_ADDRESS.to_string(), "{given}");

        let mut watch = guard.watch().await?;
        let none = changed_within(&mut watch, APP_ADDRESS, QUIET).await;
        ensure!(none.is_none(), "announced though nothing serves it: {none:?}");
        let spec = MachineSpec { region: "ams", ..MachineSpec::default() };
        let machine = platform.create_machine("hello", &spec).await?;
        watch.until(LIMIT, |change| change.address == APP_ADDRESS && change.length == 32 && !change.deleted).await?;
        until("the guard reports it", LIMIT, async || {
            let report = guard.report()?;
            ensure!(report["announced"][format!("{APP_ADDRESS}/32")].is_object(), "{report}");
            Ok(())
        })
        .await?;

        // One that a request would start serves as well, and what the guard knows it knows after a restart.
        platform.in_state("hello", &machine, MachineState::Started).await?;
        platform.stop_machine("hello", &machine).await?;
        platform.start_machine("hello", &machine).await?;
        guard.upgrade().await?;
        let change = changed_within(&mut watch, APP_ADDRESS, QUIET).await;
        ensure!(change.is_none(), "idling and waking changed the route: {change:?}");

        let gone = time_until_gone(&mut watch, APP_ADDRESS, async || {
            let path = format!("/v1/apps/hello/machines/{machine}?force=true");
            Ok(client.raw(http::Method::DELETE, &path, None).await.map(drop)?)
        })
        .await?;
        println!("an app's last machine destroyed: gone after {gone:?}");
        guard.announced().await
    });
}
