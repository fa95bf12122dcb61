//! Following an app's lines while its machines come and its servers' processes go.

use std::time::Duration;

use anyhow::{Context, ensure};

use atoll_client::LogQuery;
use atoll_model::MachineState;
use atoll_trial::platform::{MachineSpec, Role, SOON, TWO_REGIONS};

use crate::support::trial;

#[test]
fn lines_of_servers_that_first_get_a_machine_are_followed_too() {
    trial("following", TWO_REGIONS, async |platform| {
        platform.create_app("hello").await?;
        let first = platform.create_machine("hello", &MachineSpec { region: "ams", ..MachineSpec::default() }).await?;
        platform.in_state("hello", &first, MachineState::Started).await?;
        let query = LogQuery { tail: 100, follow: true, ..LogQuery::default() };
        let mut lines = platform.client().logs("hello", &query).await?;
        let mut next_of = async |machine: &str| {
            let awaited = async {
                while let Some(line) = lines.next().await? {
                    if line.machine.to_string() == machine && line.message.contains("listens on") {
                        return anyhow::Ok(());
                    }
                }
                anyhow::bail!("the lines ended")
            };
            tokio::time::timeout(SOON, awaited).await.with_context(|| format!("no line of {machine}"))?
        };
        next_of(&first).await?;

        let second = platform.create_machine("hello", &MachineSpec { region: "nrt", ..MachineSpec::default() }).await?;
        next_of(&second).await?;

        // The agent there is another one; what the machine prints after that is passed on once.
        let node = platform.node("nrt")?;
        let old = node.kill(Role::Worker).await?;
        node.replaced(Role::Worker, old).await?;
        platform.start_machine("hello", &second).await?;
        platform.stop_machine("hello", &second).await?;
        platform.start_machine("hello", &second).await?;
        next_of(&second).await?;
        let again = tokio::time::timeout(Duration::from_secs(3), next_of(&second)).await;
        ensure!(again.is_err(), "a line was passed on twice: {again:?}");
        Ok(())
    });
}
