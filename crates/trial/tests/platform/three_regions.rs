//! Three servers on three continents: near edges answer, machines are reached from everywhere.

use anyhow::ensure;

use atoll_model::MachineState;
use atoll_trial::platform::{MachineSpec, THREE_REGIONS};

use crate::support::trial;

/// Each client with the edge that is nearest to it without doubt.
const NEAREST: [(&str, &str); 3] = [("berlin", "ams"), ("osaka", "nrt"), ("chicago", "ord")];

#[test]
fn clients_are_served_by_near_machines_and_by_the_only_one() {
    trial("three_regions", THREE_REGIONS, async |platform| {
        let everywhere = platform.create_app("everywhere").await?;
        for (_, region) in NEAREST {
            let spec = MachineSpec { region, ..MachineSpec::default() };
            platform.create_machine("everywhere", &spec).await?;
        }
        for (client, region) in NEAREST {
            let seen = platform.served_as(client, &everywhere, |seen| seen.who.region == region).await?;
            ensure!(seen.edge == region, "{client} was answered by the edge in {}", seen.edge);
            println!("{client}: edge {}, machine in {}, {:.1?}", seen.edge, seen.who.region, seen.took);
        }
        let mumbai = platform.served("mumbai", &everywhere).await?;
        println!("mumbai: edge {}, machine in {}, {:.1?}", mumbai.edge, mumbai.who.region, mumbai.took);

        let single = platform.create_app("single").await?;
        let spec = MachineSpec { region: "nrt", ..MachineSpec::default() };
        let id = platform.create_machine("single", &spec).await?;
        platform.in_state("single", &id, MachineState::Started).await?;
        for (client, edge) in NEAREST {
            let seen = platform.served(client, &single).await?;
            ensure!(seen.who.machine == id && seen.edge == edge, "{client}: {seen:?}");
        }

        // An edge far away holds the request until the machine's own node has woken it.
        platform.stop_machine("single", &id).await?;
        let woken = platform.served("chicago", &single).await?;
        ensure!(woken.who.machine == id && woken.edge == "ord", "{woken:?}");
        Ok(())
    });
}

#[test]
fn a_cut_off_node_is_served_for_by_others_and_comes_back() {
    trial("node_cut", THREE_REGIONS, async |platform| {
        let site = platform.create_app("hello").await?;
        for (_, region) in NEAREST {
            let spec = MachineSpec { region, ..MachineSpec::default() };
            platform.create_machine("hello", &spec).await?;
        }
        let before = platform.served_as("osaka", &site, |seen| seen.who.region == "nrt").await?;

        platform.lab().isolate("nrt").await?;
        let away = platform.served_as("osaka", &site, |seen| seen.who.region != "nrt").await?;
        ensure!(away.edge != "nrt", "{away:?}");

        platform.lab().heal_host("nrt").await?;
        let back = platform.served_as("osaka", &site, |seen| seen.who.region == "nrt").await?;
        ensure!(back.who.boot_id == before.who.boot_id, "the machine was started anew: {back:?}");
        Ok(())
    });
}
