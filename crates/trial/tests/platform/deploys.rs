//! `atoll deploy` on three continents, under load: good releases replace each other, bad ones are
//! refused, and no user notices either.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::ensure;

use atoll_model::wire::{MachineSummary, ReleaseStatus};
use atoll_trial::load::{RunningLoad, Tally};
use atoll_trial::platform::{ONE_REGION, Platform, Release, Role, THREE_REGIONS};
use atoll_trial::visit::{Ask, ask};
use atoll_trial::wait::until;

use crate::support::trial;

const REGIONS: [&str; 3] = ["ams", "nrt", "ord"];
const NEAREST: [(&str, &str); 3] = [("berlin", "ams"), ("osaka", "nrt"), ("chicago", "ord")];
/// Requests a second from each client.
const RATE: u32 = 20;

async fn boot_ids(platform: &Platform, site: &str) -> anyhow::Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for (client, region) in NEAREST {
        ids.insert(platform.served_as(client, site, |seen| seen.who.region == region).await?.who.boot_id);
    }
    Ok(ids)
}

#[test]
fn releases_replace_each_other_and_bad_ones_are_refused_unnoticed() {
    trial("deploys", THREE_REGIONS, async |platform| {
        let site = platform.create_app("hello").await?;
        let one = Release { name: "one", ..Release::default() };
        let begun = Instant::now();
        let said = platform.deploy("hello", &one, &REGIONS).await?;
        ensure!(said.code == Some(0), "the first deploy: {said:?}");
        println!("first deploy in {:.1?}", begun.elapsed());
        let before = boot_ids(platform, &site).await?;
        ensure!(before.len() == REGIONS.len(), "{before:?}");

        let mut loads = Vec::new();
        for (client, _) in NEAREST {
            loads.push(RunningLoad::start(&platform.host(client)?, &site, RATE)?);
        }
        let bad = [
            ("exits at once", ("HELLO_EXIT_AT_START", "7")),
            ("never listens", ("HELLO_NEVER_LISTEN", "1")),
            ("fails its check", ("HELLO_CHECK_STATUS", "500")),
        ];
        for (what, knob) in bad {
            let begun = Instant::now();
            let release = Release { name: "bad", env: &[knob], ..Release::default() };
            let said = platform.deploy("hello", &release, &[]).await?;
            ensure!(said.code == Some(1), "a release that {what}: {said:?}");
            println!("a release that {what} was refused in {:.1?}", begun.elapsed());
            ensure!(boot_ids(platform, &site).await? == before, "machines were started anew by one that {what}");
        }
        let begun = Instant::now();
        let two = Release { name: "two", ..Release::default() };
        let said = platform.deploy("hello", &two, &[]).await?;
        ensure!(said.code == Some(0), "the second deploy: {said:?}");
        println!("second deploy in {:.1?}", begun.elapsed());
        for load in &loads {
            load.more(20).await?;
        }
        let mut releases = BTreeSet::new();
        for load in loads {
            let name = load.name().to_owned();
            let shots = load.stop().await?;
            let tally = Tally::of(&shots);
            println!("{name}: {tally:?}");
            tally.all_well()?;
            releases.extend(shots.into_iter().filter_map(|shot| shot.release));
        }
        ensure!(releases == BTreeSet::from(["one".into(), "two".into()]), "releases that answered: {releases:?}");
        Ok(())
    });
}

const BAD: Release<'_> =
    Release { name: "bad", env: &[("HELLO_EXIT_AT_START", "7")], idle: None, flags: &["--strategy", "immediate"] };

#[test]
fn immediate_releases_lose_no_request_and_bad_ones_are_put_back_as_a_whole() {
    trial("immediate", THREE_REGIONS, async |platform| {
        let site = platform.create_app("hello").await?;
        let one = Release { name: "one", ..Release::default() };
        let said = platform.deploy("hello", &one, &REGIONS).await?;
        ensure!(said.code == Some(0), "the first deploy: {said:?}");
        boot_ids(platform, &site).await?;
        let load = RunningLoad::start(&platform.host("berlin")?, &site, RATE)?;

        let begun = Instant::now();
        let two = Release { name: "two", flags: &["--strategy", "immediate"], ..Release::default() };
        let said = platform.deploy("hello", &two, &[]).await?;
        ensure!(said.code == Some(0), "the immediate deploy: {said:?}");
        println!("immediate deploy in {:.1?}", begun.elapsed());
        load.more(20).await?;
        let shots = load.stop().await?;
        let tally = Tally::of(&shots);
        println!("{tally:?}");
        tally.all_well()?;

        let before = platform.client().machines("hello").await?;
        let said = platform.deploy("hello", &BAD, &[]).await?;
        ensure!(said.code == Some(1), "a bad immediate deploy: {said:?}");
        ensure!(said.stderr.contains("told to exit with 7"), "the log is not shown: {}", said.stderr);
        for (client, region) in NEAREST {
            let seen = platform.served_as(client, &site, |seen| seen.who.region == region).await?;
            ensure!(seen.who.release == "two", "{seen:?}");
        }
        let after = platform.client().machines("hello").await?;
        let ids = |machines: &[_]| machines.iter().map(|machine: &MachineSummary| machine.id).collect::<BTreeSet<_>>();
        ensure!(ids(&before) == ids(&after), "not the same machines: {before:?}, {after:?}");
        Ok(())
    });
}

/// Streams of five seconds are open on every machine when its successor comes.
#[test]
fn long_answers_survive_a_deploy_and_a_quiet_one_is_quick() {
    trial("long_answers", THREE_REGIONS, async |platform| {
        let site = platform.create_app("hello").await?;
        let mut took = Vec::new();
        for name in ["one", "two"] {
            let begun = Instant::now();
            let release = Release { name, ..Release::default() };
            let said = platform.deploy("hello", &release, if name == "one" { &REGIONS } else { &[] }).await?;
            ensure!(said.code == Some(0), "deploy {name}: {said:?}");
            took.push(begun.elapsed());
        }
        println!("first deploy in {:.1?}, the next in {:.1?}", took[0], took[1]);
        boot_ids(platform, &site).await?;
        let streams = NEAREST.map(|(client, _)| {
            let host = platform.host(client);
            let site = site.clone();
            tokio::spawn(async move { ask(&host?, &Ask::get(&site, "/stream?chunks=50&every_ms=100")).await })
        });
        let three = Release { name: "three", ..Release::default() };
        let said = platform.deploy("hello", &three, &[]).await?;
        ensure!(said.code == Some(0), "deploy three: {said:?}");
        for stream in streams {
            let answer = stream.await??;
            let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
            ensure!(answer.status.is_success() && lines == 50, "{} with {lines} lines", answer.status);
        }
        Ok(())
    });
}

#[test]
fn a_silent_server_stops_a_deploy_at_once_or_is_left_out_and_made_up_for_later() {
    trial("silent_server", THREE_REGIONS, async |platform| {
        let site = platform.create_app("hello").await?;
        let one = Release { name: "one", ..Release::default() };
        let said = platform.deploy("hello", &one, &REGIONS).await?;
        ensure!(said.code == Some(0), "the first deploy: {said:?}");
        let before = boot_ids(platform, &site).await?;

        platform.lab().isolate("nrt").await?;
        let begun = Instant::now();
        let two = Release { name: "two", ..Release::default() };
        let said = platform.deploy("hello", &two, &[]).await?;
        let took = begun.elapsed();
        ensure!(said.code == Some(1) && said.stderr.contains("on nrt"), "a deploy over a silent server: {said:?}");
        ensure!(took < Duration::from_secs(20), "it took {took:?} to say so");
        let seen = platform.served("berlin", &site).await?;
        ensure!(before.contains(&seen.who.boot_id), "something was changed: {seen:?}");

        let two = Release { name: "two", flags: &["--skip-unreachable"], ..Release::default() };
        let said = platform.deploy("hello", &two, &[]).await?;
        ensure!(said.code == Some(0), "a deploy without the silent server: {said:?}");
        platform.served_as("berlin", &site, |seen| seen.who.release == "two").await?;
        platform.lab().heal_host("nrt").await?;
        until("the machine left behind goes", Duration::from_secs(90), async || {
            let machines = platform.client().machines("hello").await?;
            ensure!(machines.len() == 2, "{machines:?}");
            Ok(())
        })
        .await?;
        let three = Release { name: "three", ..Release::default() };
        let said = platform.deploy("hello", &three, &[]).await?;
        ensure!(said.code == Some(0), "the deploy after: {said:?}");
        let seen = platform.served_as("osaka", &site, |seen| seen.who.region == "nrt").await?;
        ensure!(seen.who.release == "three", "{seen:?}");
        Ok(())
    });
}

/// Control is killed when a deploy says that it is at this step; the deploy goes on by itself.
#[test]
fn control_may_be_killed_at_any_step_of_a_deploy() {
    const STEPS: [&str; 6] = [
        "creating in",
        "waiting for it to work",
        "waiting for every edge",
        "taking it out of the routing",
        "letting open requests end",
        "stopping and destroying",
    ];
    trial("deploy_killed", ONE_REGION, async |platform| {
        let site = platform.create_app("hello").await?;
        let zero = Release { name: "zero", ..Release::default() };
        let said = platform.deploy("hello", &zero, &["ams"]).await?;
        ensure!(said.code == Some(0), "the first deploy: {said:?}");
        let load = RunningLoad::start(&platform.host("berlin")?, &site, RATE)?;
        for (number, step) in (2..).zip(STEPS) {
            let release = Release { name: step, flags: &["--detach"], ..Release::default() };
            let said = platform.deploy("hello", &release, &[]).await?;
            ensure!(said.code == Some(0), "deploy {number}: {said:?}");
            let mut events = platform.client().release_events("hello", number, 0).await?;
            while let Some(event) = events.next().await? {
                if event.text.starts_with(step) {
                    break;
                }
            }
            let node = platform.node("ams")?;
            let old = node.kill(Role::Control).await?;
            node.replaced(Role::Control, old).await?;
            until(&format!("release {number}, killed at {step:?}, is in place"), Duration::from_secs(60), async || {
                let releases = platform.client().releases("hello").await?;
                let status = releases.iter().find(|release| release.version == number).map(|release| &release.status);
                ensure!(status == Some(&ReleaseStatus::Complete), "{status:?}");
                Ok(())
            })
            .await?;
            let machines = platform.client().machines("hello").await?;
            ensure!(machines.len() == 1, "killed at {step:?}: {machines:?}");
        }
        load.more(20).await?;
        let tally = Tally::of(&load.stop().await?);
        println!("{tally:?}");
        tally.all_well()
    });
}
