//! The power of a node fails, and of the one with control too; what ran comes back, and what sleeps can
//! be woken by nobody's help.

use anyhow::ensure;
use http::Method;
use serde_json::json;

use atoll_model::MachineState;
use atoll_trial::platform::{MachineSpec, Origin, TWO_REGIONS, see};
use atoll_trial::visit::{Ask, ask};

use crate::support::trial;

#[test]
fn machines_come_back_after_a_power_cut_and_wake_with_control_and_registry_gone() {
    trial("power_cut", TWO_REGIONS, async |platform| {
        let site = platform.create_app("hello").await?;
        let spec = |region| MachineSpec { region, restart: "no", ..MachineSpec::default() };
        let near = platform.create_machine("hello", &spec("nrt")).await?;
        platform.create_machine("hello", &spec("ams")).await?;
        let sleeper = platform.create_app("sleeper").await?;
        let secrets = json!({ "values": { "PASSWORD": "swordfish" } });
        platform.client().raw(Method::POST, "/v1/apps/sleeper/secrets", Some(&secrets)).await?;
        let asleep = platform.create_machine("sleeper", &spec("nrt")).await?;
        platform.served("osaka", &sleeper).await?;
        platform.stop_machine("sleeper", &asleep).await?;
        let before = platform.served_as("osaka", &site, |seen| seen.who.machine == near).await?;

        // The node without control: its users are served elsewhere, and by it again.
        platform.node_mut("nrt")?.cut_power().await?;
        let away = platform.served_as("osaka", &site, |seen| seen.who.region == "ams").await?;
        ensure!(away.edge == "ams", "{away:?}");
        platform.host("nrt")?.boot().await?;
        platform.node_mut("nrt")?.start(&Origin::HasJoined).await?;
        let back = platform.served_as("osaka", &site, |seen| seen.who.machine == near).await?;
        ensure!(back.who.boot_id != before.who.boot_id, "it ran without power: {back:?}");
        platform.in_state("hello", &near, MachineState::Started).await?;
        platform.in_state("sleeper", &asleep, MachineState::Stopped).await?;

        // Both; only the one without control comes back.
        platform.node_mut("ams")?.cut_power().await?;
        platform.node_mut("nrt")?.cut_power().await?;
        platform.host("nrt")?.boot().await?;
        platform.node_mut("nrt")?.start(&Origin::HasJoined).await?;
        let osaka = platform.host("osaka")?;
        let again = platform.served_as("osaka", &site, |seen| seen.who.machine == near).await?;
        ensure!(again.who.boot_id != back.who.boot_id, "it ran without power: {again:?}");
        let woken = see(&osaka, &Ask::get(&sleeper, "/")).await?;
        println!("woken in {:.1?}, with control and the registry gone", woken.took);
        ensure!(woken.who.machine == asleep, "{woken:?}");
        let secret = ask(&osaka, &Ask::get(&sleeper, "/secret/PASSWORD")).await?;
        ensure!(secret.body.trim_ascii() == b"swordfish", "the secret is {:?}", secret.body);

        // Control comes back to what is already there.
        platform.host("ams")?.boot().await?;
        platform.node_mut("ams")?.start(&Origin::First).await?;
        platform.in_state("sleeper", &asleep, MachineState::Started).await?;
        platform.served_as("berlin", &site, |seen| seen.who.region == "ams").await?;
        let last = platform.served_as("osaka", &site, |seen| seen.who.machine == near).await?;
        ensure!(last.who.boot_id == again.who.boot_id, "control's return started machines anew: {last:?}");
        Ok(())
    });
}
