//! What the fault table (`faults.rs`) does not look at when a process dies: what the next one takes over,
//! and what goes on while control stays dead.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;

use atoll_model::MachineState;
use atoll_trial::load::{RunningLoad, Shot, Tally};
use atoll_trial::platform::{MachineSpec, ONE_REGION, Origin, Platform, Role, see};
use atoll_trial::visit::{Ask, ask};

use crate::support::trial;

/// Requests a second; half of them carry 64 KiB.
const RATE: u32 = 60;

/// An app with started machines that are served; gives its host name and their ids.
async fn serving(platform: &Platform, machines: usize) -> anyhow::Result<(String, Vec<String>)> {
    let site = platform.create_app("hello").await?;
    let spec = MachineSpec { region: "ams", restart: "no", ..MachineSpec::default() };
    let mut ids = Vec::new();
    for _ in 0..machines {
        ids.push(platform.create_machine("hello", &spec).await?);
    }
    for id in &ids {
        platform.in_state("hello", id, MachineState::Started).await?;
        platform.served_as("berlin", &site, |seen| seen.who.machine == *id).await?;
    }
    Ok((site, ids))
}

/// The boot ids seen per machine.
fn boots(shots: &[Shot]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut boots: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for shot in shots {
        if let (Some(machine), Some(boot)) = (&shot.machine, &shot.boot_id) {
            boots.entry(machine).or_default().insert(boot);
        }
    }
    boots
}

#[test]
fn a_killed_worker_costs_no_request_and_no_machine() {
    trial("worker_killed", ONE_REGION, async |platform| {
        let (site, ids) = serving(platform, 1).await?;
        let load = RunningLoad::start(&platform.host("berlin")?, &site, RATE)?;
        load.more(100).await?;
        let node = platform.node("ams")?;
        let old = node.kill(Role::Worker).await?;
        let new = node.replaced(Role::Worker, old).await?;
        load.more(300).await?;
        let shots = load.stop().await?;
        let tally = Tally::of(&shots);
        println!("worker {old} -> {new}: {tally:?}");
        tally.all_well()?;
        let boots = boots(&shots);
        ensure!(boots.len() == 1 && boots.values().all(|boots| boots.len() == 1), "{boots:?}");
        let last = shots.iter().filter_map(|shot| shot.counter).max().unwrap_or_default();
        ensure!(last as usize >= shots.len() - tally.socket, "the counter began anew: {last} after {}", shots.len());
        // The new worker has taken the machine over: it does what it is told.
        platform.stop_machine("hello", &ids[0]).await
    });
}

#[test]
fn without_control_machines_are_woken_and_dead_ones_avoided() {
    trial("control_killed", ONE_REGION, async |platform| {
        let (site, ids) = serving(platform, 2).await?;
        let lone = platform.create_app("lone").await?;
        let spec = MachineSpec { region: "ams", ..MachineSpec::default() };
        let stopped = platform.create_machine("lone", &spec).await?;
        let before = platform.served("berlin", &lone).await?;
        platform.stop_machine("lone", &stopped).await?;

        let node = platform.node("ams")?;
        let mut old = node.kill(Role::Control).await?;
        let berlin = platform.host("berlin")?;
        let woken = see(&berlin, &Ask::get(&lone, "/")).await?;
        ensure!(woken.who.machine == stopped && woken.who.boot_id != before.who.boot_id, "{woken:?}");

        old = node.replaced(Role::Control, old).await?;
        node.kill(Role::Control).await?;
        // No answer is the right one here.
        drop(ask(&berlin, &Ask::post(&site, "/crash")).await);
        let mut answered = BTreeSet::new();
        for _ in 0..40 {
            answered.insert(see(&berlin, &Ask::get(&site, "/")).await?.who.machine);
        }
        ensure!(answered.len() == 1 && ids.iter().any(|id| answered.contains(id)), "answered: {answered:?}");
        node.replaced(Role::Control, old).await?;
        Ok(())
    });
}

#[test]
fn a_server_started_again_adopts_its_machines() {
    trial("supervisor_killed", ONE_REGION, async |platform| {
        let (site, ids) = serving(platform, 2).await?;
        let berlin = platform.host("berlin")?;
        let before = platform.served_as("berlin", &site, |seen| seen.who.machine == ids[0]).await?;
        let node = platform.node_mut("ams")?;
        node.kill_supervisor().await?;
        node.start(&Origin::First).await?;
        let after = platform.served_as("berlin", &site, |seen| seen.who.machine == ids[0]).await?;
        ensure!(after.who.boot_id == before.who.boot_id, "{after:?}");
        ensure!(after.who.counter > before.who.counter, "{after:?}");
        ensure!(platform.node("ams")?.processes("hello").await? == 2, "not the two machines' processes");
        for id in &ids {
            platform.stop_machine("hello", id).await?;
        }
        let woken = see(&berlin, &Ask::get(&site, "/")).await?;
        ensure!(woken.who.boot_id != before.who.boot_id, "{woken:?}");
        Ok(())
    });
}
