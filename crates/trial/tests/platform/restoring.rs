//! Control's records on a server that has nothing but a backup and the platform's keys.

use std::path::Path;

use anyhow::{Context, ensure};

use atoll_model::MachineState;
use atoll_trial::platform::{MachineSpec, Origin, Platform, Release, SOON, TWO_REGIONS};
use atoll_trial::wait::until;

use crate::support::trial;

#[test]
fn a_platform_goes_on_from_an_old_backup() {
    trial("restored", TWO_REGIONS, async |platform| {
        let site = platform.create_app("hello").await?;
        let one = Release { name: "one", ..Release::default() };
        let said = platform.deploy("hello", &one, &["nrt"]).await?;
        ensure!(said.code == Some(0), "the first deploy: {said:?}");
        let before = platform.served("osaka", &site).await?;
        let spec = MachineSpec { region: "nrt", ..MachineSpec::default() };
        let known = platform.create_app("known").await?;
        let ended = platform.create_machine("known", &spec).await?;

        let folder = tempfile::tempdir()?;
        let said = platform.atoll(folder.path(), &["control", "backup", "records"]).await?;
        ensure!(said.code == Some(0), "the backup: {said:?}");
        platform.client().machine_destroy("known", &ended, true).await?;
        // What edges have heard, and the backup knows nothing of: a machine of an app that it knows, and
        // apps with theirs.
        let stray = platform.create_machine("known", &spec).await?;
        let stray_before = platform.served("osaka", &known).await?;
        let later = platform.create_app("later").await?;
        let orphan = platform.create_machine("later", &spec).await?;
        let orphan_before = platform.served("osaka", &later).await?;
        platform.create_app("unwanted").await?;
        let unwanted = platform.create_machine("unwanted", &spec).await?;
        platform.in_state("unwanted", &unwanted, MachineState::Started).await?;

        let node = platform.node_mut("ams")?;
        let state = node.state()?;
        let gone = state.with_extension("gone");
        node.end().await?;
        std::fs::rename(&state, &gone)?;
        std::fs::create_dir_all(state.join("control"))?;
        for kept in ["root.key", "ca"] {
            let (from, to) = (gone.join("control").join(kept), state.join("control").join(kept));
            let copied = node.run("cp", &["-a", &from.display().to_string(), &to.display().to_string()]).await?;
            ensure!(copied.status.success(), "{copied:?}");
        }
        let backup = folder.path().join("records").display().to_string();
        let program = atoll_trial::programs::atoll()?;
        let arguments = ["control", "restore", &backup, "--state", &state.display().to_string()];
        let restored = node.run(program, &arguments).await?;
        ensure!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        node.start(&Origin::First).await?;

        until("control hears the other server", SOON, async || {
            let nodes = platform.client().nodes().await?;
            let other = nodes.iter().find(|node| node.name.as_str() == "nrt").context("it is not listed")?;
            ensure!(other.reachable, "it is not heard");
            Ok(())
        })
        .await?;
        let after = platform.served("osaka", &site).await?;
        ensure!(after.who.boot_id == before.who.boot_id, "the machine was started anew: {after:?}");
        // Edges take control's rows and acknowledge them: an app that is new to them is served.
        let two = Release { name: "two", ..Release::default() };
        let said = platform.deploy("hello", &two, &[]).await?;
        ensure!(said.code == Some(0), "the second deploy: {said:?}");
        let fresh = platform.create_app("fresh").await?;
        platform.create_machine("fresh", &spec).await?;
        platform.served("osaka", &fresh).await?;

        // The machine of the known app is control's again; nothing has happened to it.
        platform.in_state("known", &stray, MachineState::Started).await?;
        let after = platform.served("osaka", &known).await?;
        ensure!((&after.who.machine, after.who.boot_id) == (&stray, stray_before.who.boot_id), "another one");
        platform.stop_machine("known", &stray).await?;
        // The one that was destroyed is shown until it is destroyed again.
        platform.client().machine_destroy("known", &ended, true).await?;
        let machines = platform.client().machines("known").await?;
        ensure!(machines.len() == 1 && machines[0].id.to_string() == stray, "{machines:?}");
        // Those of the lost apps are listed with the reason.
        unknown(platform, &[(&orphan, "later"), (&unwanted, "unwanted")]).await?;
        // One is taken back when its app is there again, the other one is destroyed.
        platform.client().app_create("later", "personal").await?;
        platform.in_state("later", &orphan, MachineState::Started).await?;
        let after = platform.served("osaka", &later).await?;
        ensure!(after.who.boot_id == orphan_before.who.boot_id, "the machine was started anew: {after:?}");
        unknown(platform, &[(&unwanted, "unwanted")]).await?;
        let running = platform.node("nrt")?.processes("hello").await?;
        let said = platform.atoll(folder.path(), &["machine", "destroy", "--unknown", &unwanted]).await?;
        ensure!(said.code == Some(0), "the end of the unknown machine: {said:?}");
        unknown(platform, &[]).await?;
        until("its process has ended", SOON, async || {
            let left = platform.node("nrt")?.processes("hello").await?;
            ensure!(left == running - 1, "{left} processes are left of {running}");
            Ok(())
        })
        .await?;
        Ok(())
    });
}

/// Waits until exactly these machines are shown as ones that are not in the records, because of their apps.
async fn unknown(platform: &Platform, machines: &[(&str, &str)]) -> anyhow::Result<()> {
    until("machines that are not in the records are listed", SOON, async || {
        let said = platform.atoll(Path::new("/"), &["machine", "list", "--unknown"]).await?;
        ensure!(said.code == Some(0), "{said:?}");
        let lines: Vec<&str> = said.stdout.lines().skip(1).collect();
        let is_shown = |(id, app): &(&str, &str)| {
            lines.iter().any(|line| line.contains(id) && line.ends_with(&format!("app \"{app}\" not found")))
        };
        ensure!(lines.len() == machines.len() && machines.iter().all(is_shown), "{said:?}");
        Ok(())
    })
    .await?;
    Ok(())
}
