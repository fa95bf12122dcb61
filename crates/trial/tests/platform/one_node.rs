//! A single server: a machine made through the API is served, looked into, stopped and woken.

use anyhow::ensure;

use atoll_client::LogQuery;
use atoll_model::MachineState;
use atoll_trial::platform::{MachineSpec, ONE_REGION, SOON, see};
use atoll_trial::visit::Ask;
use atoll_trial::wait::until;

use crate::support::trial;

#[test]
fn a_machine_made_through_the_api_is_served_and_woken() {
    trial("one_node", ONE_REGION, async |platform| {
        let site = platform.create_app("hello").await?;
        let spec = MachineSpec { region: "ams", env: &[("HELLO_RELEASE", "one")], ..MachineSpec::default() };
        let id = platform.create_machine("hello", &spec).await?;
        platform.in_state("hello", &id, MachineState::Started).await?;

        let plain = platform.served("berlin", &site).await?;
        ensure!((&*plain.who.machine, &*plain.who.region, &*plain.edge) == (&id, "ams", "ams"), "{plain:?}");
        ensure!(plain.who.release == "one", "{plain:?}");
        let berlin = platform.host("berlin")?;
        let ca = platform.ca().to_owned();
        let secure = see(&berlin, &Ask { ca: Some(&ca), ..Ask::get(&site, "/") }).await?;
        ensure!(secure.who.boot_id == plain.who.boot_id, "{secure:?}");

        let client = platform.client();
        let said = client.machine_exec("hello", &id, &["/hello".into(), "--no-such".into()], 10).await;
        ensure!(said.is_ok(), "exec: {said:?}");
        let query = LogQuery { tail: 100, ..LogQuery::default() };
        until("the machine's own lines are among the logs", SOON, async || {
            let mut lines = client.logs("hello", &query).await?;
            while let Some(line) = lines.next().await? {
                if line.machine.to_string() == id && line.message.contains("listens on") {
                    return Ok(());
                }
            }
            anyhow::bail!("they are not")
        })
        .await?;

        let node = platform.node("ams")?;
        let metrics = node.metrics().await?;
        for process in ["supervisor", "control", "worker", "edge"] {
            let line = format!("atoll_process_start_time_seconds{{process=\"{process}\"}}");
            ensure!(metrics.contains(&line), "{process} says nothing:\n{metrics}");
        }
        ensure!(metrics.contains("atoll_worker_machines{process=\"worker\",state=\"started\"} 1"), "{metrics}");
        until("requests are in the access log", SOON, async || {
            ensure!(node.access_log()?.contains(&format!("\"machine\":\"{id}\"")), "none is");
            Ok(())
        })
        .await?;

        platform.stop_machine("hello", &id).await?;
        ensure!(node.processes("hello").await? == 0, "the machine's process is still there");
        let woken = see(&berlin, &Ask::get(&site, "/")).await?;
        ensure!(woken.who.machine == id && woken.who.boot_id != plain.who.boot_id, "{woken:?}");
        println!("woken in {:?}", woken.took);
        platform.in_state("hello", &id, MachineState::Started).await?;
        Ok(())
    });
}
