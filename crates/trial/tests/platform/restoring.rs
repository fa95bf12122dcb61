//! Control's records on a server that has nothing but a backup and the platform's keys.

use anyhow::{Context, ensure};

use atoll_trial::platform::{MachineSpec, Origin, Release, SOON, TWO_REGIONS};
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

        let folder = tempfile::tempdir()?;
        let said = platform.atoll(folder.path(), &["control", "backup", "records"]).await?;
        ensure!(said.code == Some(0), "the backup: {said:?}");
        // Rows that edges have heard, and that the backup knows nothing of.
        platform.create_app("later").await?;
        let spec = MachineSpec { region: "nrt", ..MachineSpec::default() };
        platform.create_machine("later", &spec).await?;
        platform.served("osaka", "later.apps.test").await?;

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
        Ok(())
    });
}
