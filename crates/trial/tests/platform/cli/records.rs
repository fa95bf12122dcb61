//! `atoll control backup` and `restore`: a server that lost everything goes on from a file.

use anyhow::ensure;

use atoll_trial::platform::{APP_DOMAIN, ONE_REGION, Origin, Release, SOON};
use atoll_trial::programs;
use atoll_trial::wait::until;

use super::User;
use crate::support::trial;

#[test]
fn a_backup_fills_a_new_server_that_serves_again() {
    trial("backup", ONE_REGION, async |platform| {
        let site = format!("hello.{APP_DOMAIN}");
        let release = Release { name: "one", ..Release::default() };
        let backup = {
            let user = User::of(platform)?;
            user.ok(&["apps", "create", "hello"]).await?;
            user.ok(&["secrets", "set", "-a", "hello", "KEPT=through-the-backup"]).await?;
            let said = platform.deploy("hello", &release, &["ams"]).await?;
            ensure!(said.code == Some(0), "{said:?}");
            let backup = platform.node("ams")?.state()?.with_file_name("records.backup");
            let path = backup.display().to_string();
            let wrote = user.json(&["control", "backup", &path]).await?;
            ensure!(wrote["bytes"].as_u64() == Some(std::fs::metadata(&backup)?.len()), "{wrote}");
            let again = user.fails(2, &["control", "backup", &path]).await?;
            ensure!(again.contains("exists already"), "{again}");
            backup
        };

        // Everything is gone but the file and the key that the operator keeps.
        let node = platform.node_mut("ams")?;
        let state = node.state()?;
        node.lose_power().await?;
        let lost = state.with_extension("lost");
        std::fs::rename(&state, &lost)?;
        let file = backup.display().to_string();
        let folder = state.display().to_string();
        let restored = node.run(programs::atoll()?, &["control", "restore", &file, "--state", &folder]).await?;
        ensure!(restored.status.success(), "{restored:?}");
        std::fs::copy(lost.join("control/root.key"), state.join("control/root.key"))?;
        node.start(&Origin::First).await?;

        // Tokens are among the records: the old one works.
        let user = User::of(platform)?;
        until("control answers", SOON, async || user.ok(&["apps", "list"]).await).await?;
        ensure!(user.ok(&["apps", "list"]).await?.contains("hello"), "the app is not there");
        ensure!(user.json(&["releases", "-a", "hello"]).await?[0]["version"] == 1, "releases");
        ensure!(user.ok(&["secrets", "list", "-a", "hello"]).await?.contains("KEPT"), "secrets");
        let two = Release { name: "two", ..Release::default() };
        let said = platform.deploy("hello", &two, &[]).await?;
        ensure!(said.code == Some(0), "the deploy after the restore: {said:?}");
        platform.served_as("berlin", &site, |seen| seen.who.release == "two").await.map(drop)
    });
}
