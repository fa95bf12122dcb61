//! Machines call an app at its private address: their own server's edge takes the call, wakes the app wherever it
//! is, and nobody else's machines get through.

use std::net::Ipv6Addr;
use std::time::Instant;

use anyhow::{Context, ensure};
use http::Method;
use serde_json::json;

use atoll_trial::inside::Inside;
use atoll_trial::platform::{Platform, Role, RunningMachine, SOON, TWO_REGIONS, example_of};
use atoll_trial::wait::until;

use crate::support::trial;

/// Where the app takes TCP as it is.
const TCP_SERVICE: u16 = 7000;
const NAME: &str = "web.flycast";

/// Gives an app a private address in a network; without one, in its own.
async fn give_address(platform: &Platform, app: &str, network: &str) -> anyhow::Result<Ipv6Addr> {
    let wanted = json!({"type": "private_v6", "network": network});
    let given = platform.client().address_assign(app, &wanted).await?;
    given["ip"].as_str().context("no address was given")?.parse().context("an odd address")
}

/// A machine of the example app in nrt with two services, stopped.
async fn stopped_machine(platform: &Platform) -> anyhow::Result<String> {
    let service = |port: u16, handlers: &[&str]| {
        json!({"protocol": "tcp", "internal_port": 8080, "autostart": true,
            "ports": [{"port": port, "handlers": handlers, "force_https": !handlers.is_empty()}]})
    };
    let config = json!({"image": example_of("web"), "services": [service(80, &["http"]), service(TCP_SERVICE, &[])]});
    let body = json!({"region": "nrt", "config": config});
    let made = platform.client().raw(Method::POST, "/v1/apps/web/machines", Some(&body)).await?;
    let id = made["id"].as_str().context("the machine has no id")?.to_owned();
    platform.start_machine("web", &id).await?;
    platform.stop_machine("web", &id).await?;
    Ok(id)
}

async fn resolves(caller: &Inside<'_>, address: Ipv6Addr) -> anyhow::Result<()> {
    until("the app's private name leads to its address", SOON, async || {
        let found = caller.resolve(NAME).await?;
        ensure!(found == [address], "it leads to {found:?}");
        Ok(())
    })
    .await
    .map(drop)
}

#[test]
fn a_machine_wakes_an_app_on_another_server_and_strangers_reach_none() {
    trial("flycast", TWO_REGIONS, async |platform| {
        platform.create_app("web").await?;
        platform.create_app("caller").await?;
        let foreign = json!({"name": "foreign", "org_slug": "personal", "network": "strangers"});
        platform.client().raw(Method::POST, "/v1/apps", Some(&foreign)).await?;
        platform.import_example("hello", "foreign/web:latest").await?;
        let caller = platform.running_machine("caller", "ams").await?;
        let stranger = platform.running_machine("foreign", "ams").await?;
        let web = stopped_machine(platform).await?;
        let address = give_address(platform, "web", "").await?;

        let ams = platform.node("ams")?;
        let inside = Inside::new(ams, &caller.id);
        resolves(&inside, address).await?;
        let (who, took) = inside.get_by_name_at(NAME, 80).await?;
        ensure!(who.machine == web && who.region == "nrt", "{who:?}");
        println!("a call woke a machine on the other server and was answered after {took:.2?}");

        // As plain TCP, which wakes it too.
        platform.stop_machine("web", &web).await?;
        let (again, _) = inside.get_by_name_at(NAME, TCP_SERVICE).await?;
        ensure!(again.machine == web && again.boot_id != who.boot_id, "{again:?}");

        refused_at_once(platform, &caller, address).await?;
        logged(platform, &caller).await?;

        // Strangers have no such name, and reach nothing by the address.
        let outside = Inside::new(ams, &stranger.id);
        ensure!(outside.resolve(NAME).await?.is_empty(), "a stranger learns of a name");
        let url = format!("http://[{address}]/");
        let called = outside.run("curl", &["-sg", "--connect-timeout", "1", &url]).await;
        ensure!(called.is_err(), "a stranger was answered: {called:?}");
        // Until the app is given an address in their network, too.
        let entered = give_address(platform, "web", "strangers").await?;
        resolves(&outside, entered).await?;
        ensure!(outside.get_by_name_at(NAME, 80).await?.0.machine == web, "another machine answered");

        processes_are_replaced(platform, &caller, &web).await
    });
}

/// A port that is no service's: a reset, not silence.
async fn refused_at_once(platform: &Platform, caller: &RunningMachine, address: Ipv6Addr) -> anyhow::Result<()> {
    /// What curl ends with where connecting fails, and where nothing can be received.
    const RESET: [i32; 2] = [7, 56];
    let began = Instant::now();
    let url = format!("http://[{address}]:81/");
    let output = platform.node("ams")?.in_machine(&caller.id, "curl", &["-sg", "--max-time", "20", &url]).await?;
    let code = output.status.code().context("curl was killed")?;
    ensure!(RESET.contains(&code), "curl ended with {code} after {:.1?}", began.elapsed());
    Ok(())
}

/// The caller's own server has the call in its log, under the caller's address.
async fn logged(platform: &Platform, caller: &RunningMachine) -> anyhow::Result<()> {
    until("the call is in the log of the caller's edge", SOON, async || {
        let log = platform.node("ams")?.access_log()?;
        let address = caller.address.to_string();
        let found = log.lines().any(|line| line.contains(&address) && line.contains(NAME));
        ensure!(found, "not in\n{log}");
        Ok(())
    })
    .await
    .map(drop)
}

/// Calls wait while the edge is replaced; the net process is not needed for them at all.
async fn processes_are_replaced(platform: &Platform, caller: &RunningMachine, web: &str) -> anyhow::Result<()> {
    let ams = platform.node("ams")?;
    let inside = Inside::new(ams, &caller.id);
    for role in [Role::Edge, Role::Net] {
        // The name's answer holds, as with every client.
        let [address] = inside.resolve(NAME).await?[..] else { anyhow::bail!("{NAME} has gone") };
        let old = ams.kill(role).await?;
        let url = format!("http://[{address}]/");
        let said = inside.run("curl", &["-sfg", "--max-time", "20", &url]).await?;
        ensure!(said.contains(web), "after {role} was killed: {said}");
        ams.replaced(role, old).await?;
    }
    Ok(())
}
