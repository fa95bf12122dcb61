//! Nearness is measured: when the way to the nearest machine becomes long, traffic takes another one.

use std::time::{Duration, Instant};

use anyhow::ensure;

use atoll_model::MachineState;
use atoll_trial::load::{RunningLoad, Tally};
use atoll_trial::platform::{MachineSpec, THREE_REGIONS};

use crate::support::trial;

/// The regions of the app's machines, by their distance from the edge that asks.
const NEAR: &str = "ord";
const NEXT: &str = "nrt";
/// By when traffic must follow.
const FOLLOW_LIMIT: Duration = Duration::from_secs(5);
const RATE: u32 = 30;

#[test]
fn traffic_leaves_a_link_that_became_slow_and_returns_when_it_is_well() {
    trial("slow_link", THREE_REGIONS, async |platform| {
        let site = platform.create_app("abroad").await?;
        for region in [NEAR, NEXT] {
            let spec = MachineSpec { region, ..MachineSpec::default() };
            let machine = platform.create_machine("abroad", &spec).await?;
            platform.in_state("abroad", &machine, MachineState::Started).await?;
        }
        platform.served_as("berlin", &site, |seen| seen.who.region == NEAR).await?;
        let load = RunningLoad::start(&platform.host("berlin")?, &site, RATE)?;
        load.more(30).await?;

        let slowed = Instant::now();
        platform.lab().slow("ams", NEAR, Duration::from_millis(150)).await?;
        platform.served_as("berlin", &site, |seen| seen.who.region == NEXT).await?;
        let moved = slowed.elapsed();
        let healed = Instant::now();
        platform.lab().heal("ams", NEAR).await?;
        platform.served_as("berlin", &site, |seen| seen.who.region == NEAR).await?;
        let back = healed.elapsed();
        load.more(30).await?;
        let tally = Tally::of(&load.stop().await?);
        println!("moved after {moved:.1?}, back after {back:.1?}: {tally:?}");
        ensure!(moved <= FOLLOW_LIMIT, "traffic moved only after {moved:.1?}");
        ensure!(back <= FOLLOW_LIMIT, "traffic was back only after {back:.1?}");
        tally.all_well()
    });
}
