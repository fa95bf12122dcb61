//! `atoll deploy` on three continents, under load: good releases replace each other, bad ones are
//! refused, and no user notices either.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::ensure;

use atoll_trial::load::{RunningLoad, Tally};
use atoll_trial::platform::{Platform, Release, THREE_REGIONS};

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
