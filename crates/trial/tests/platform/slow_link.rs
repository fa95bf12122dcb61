//! Nearness is measured: when the way to the nearest machine becomes long, traffic takes another one.

use atoll_trial::load::{RunningLoad, Tally};
use atoll_trial::platform::THREE_REGIONS;
use atoll_trial::slow_link;

use crate::support::trial;

const RATE: u32 = 30;

#[test]
fn traffic_leaves_a_link_that_became_slow_and_returns_when_it_is_well() {
    trial("slow_link", THREE_REGIONS, async |platform| {
        let site = slow_link::prepare(platform).await?;
        let load = RunningLoad::start(&platform.host("berlin")?, &site, RATE)?;
        load.more(30).await?;
        let followed = slow_link::slow_and_heal(platform, &site, slow_link::DIRECT).await?;
        load.more(30).await?;
        let tally = Tally::of(&load.stop().await?);
        println!("{followed:.1?}: {tally:?}");
        tally.all_well()
    });
}
