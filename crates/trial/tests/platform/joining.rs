//! Servers that may not join, and ones that cannot start: each ends at once and says why.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};

use atoll_model::MachineState;
use atoll_trial::platform::{MachineSpec, Node, Origin, PAIR, Platform, Role, SOON, see};
use atoll_trial::short_lives::join_with_lives_of;
use atoll_trial::visit::Ask;
use atoll_trial::wait::until;

use crate::support::trial;

/// Starts a server that must fail; gives what it said.
async fn refused(node: &Node, origin: &Origin) -> anyhow::Result<String> {
    let mut command = node.command(origin)?;
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let limit = Duration::from_secs(20);
    let output = tokio::time::timeout(limit, output).await.context("it did not end")??;
    ensure!(!output.status.success(), "it ended well");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn nodes(platform: &Platform) -> anyhow::Result<usize> {
    Ok(platform.client().nodes().await?.len())
}

#[test]
fn a_server_joins_only_with_a_fresh_token_and_a_region_that_exists() {
    trial("joining", PAIR, async |platform| {
        let control = platform.nodes_address()?;
        let joins = |token: &str| Origin::Joins { control, token: token.to_owned() };
        let late = platform.host("late")?;
        let node = Node::new(late.clone(), "nrt");

        let said = refused(&node, &joins("nonsense")).await?;
        ensure!(said.contains("token"), "{said}");
        let fresh = platform.client().node_token().await?.token;
        // atoll-join.<secret>.<fingerprint>
        let parts: Vec<&str> = fresh.split('.').collect();
        let [kind, secret, fingerprint] = parts[..] else { anyhow::bail!("a token of another form: {fresh}") };
        let said = refused(&node, &joins(&format!("{kind}.{}.{fingerprint}", "0".repeat(secret.len())))).await?;
        ensure!(said.contains("token"), "{said}");
        let said = refused(&node, &joins(&format!("{kind}.{secret}.{}", "0".repeat(fingerprint.len())))).await?;
        ensure!(said.contains("not of the platform"), "{said}");

        let said = refused(&Node::new(late.clone(), "xyz"), &joins(&fresh)).await?;
        ensure!(said.contains("xyz") && said.contains("region"), "{said}");
        ensure!(nodes(platform).await? == 1, "a refused server is listed");

        // What was refused has cost the token nothing.
        let mut node = Node::new(late.clone(), "nrt");
        node.start(&joins(&fresh)).await?;
        ensure!(nodes(platform).await? == 2, "the server that joined is not listed");
        node.kill_supervisor().await?;

        // A server that has forgotten all, with the same token.
        std::fs::remove_dir_all(node.state()?)?;
        let said = refused(&node, &joins(&fresh)).await.context("with a used token")?;
        ensure!(said.contains("token"), "{said}");
        ensure!(nodes(platform).await? == 2, "a server with a used token is listed");
        Ok(())
    });
}

#[test]
fn a_server_whose_clock_is_a_day_off_may_not_join() {
    trial("clock", PAIR, async |platform| {
        let control = platform.nodes_address()?;
        let late = platform.host("late")?;
        let mut node = Node::new(late, "nrt");
        let fresh = platform.client().node_token().await?.token;
        let origin = Origin::Joins { control, token: fresh };
        for (days, direction) in [("+1d", "ahead"), ("-1d", "behind")] {
            // Hosts of a lab share the kernel's clock: another one is shown to the joining program.
            let joining = node.command(&origin)?;
            let mut command = tokio::process::Command::new(joining.as_std().get_program());
            let mut arguments = joining.as_std().get_args().peekable();
            while let Some(argument) = arguments.next() {
                command.arg(argument);
                if argument == "--" && arguments.peek().is_some() {
                    command.args(["faketime", "-f", days]);
                }
            }
            let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success(), "it ended well");
            ensure!(said.contains("clock") && said.contains(direction) && said.contains("NTP"), "{days}: {said}");
            println!("{said}");
        }
        ensure!(nodes(platform).await? == 1, "a refused server is listed");
        // The token has not been used up.
        node.start(&origin).await?;
        ensure!(nodes(platform).await? == 2, "the server that joined is not listed");
        Ok(())
    });
}

#[test]
fn a_taken_port_is_named() {
    trial("taken_port", PAIR, async |platform| {
        let late = platform.host("late")?;
        let address = late.ipv4()?;
        let _taken = late.in_network(move || std::net::TcpListener::bind((address, 80))).await??;
        let node = Node::new(late, "nrt");
        let said = refused(&node, &Origin::First).await?;
        ensure!(said.contains(":80"), "{said}");
        Ok(())
    });
}

/// How long certificates live in the test of lapsed ones.
const SHORT_LIFE: Duration = Duration::from_secs(10);

#[test]
fn certificates_are_renewed_and_a_lapsed_server_enrols_again_with_its_machines() {
    trial("lapsed", PAIR, async |platform| {
        let mut late = join_with_lives_of(platform, SHORT_LIFE).await?;
        platform.heard("late", true).await?;

        let site = platform.create_app("hello").await?;
        let id = platform.create_machine("hello", &MachineSpec { region: "nrt", ..MachineSpec::default() }).await?;
        platform.in_state("hello", &id, MachineState::Started).await?;
        let host = platform.host("late")?;
        let question = Ask { target: Some(late.address(80)?), ..Ask::get(&site, "/") };
        let (before, _) = until("it is served", SOON, async || see(&host, &question).await).await?;

        // Two lives: each of the two processes is given certificate after certificate.
        let state = late.state()?;
        let identity = |role| late.seen_from_outside(&state.join(role).join("identity.pem"));
        let files = [identity("worker")?, identity("edge")?];
        let mut kept = [BTreeSet::new(), BTreeSet::new()];
        until("both have had five certificates", 6 * SHORT_LIFE, async || {
            for (file, kept) in files.iter().zip(&mut kept) {
                kept.insert(std::fs::read(file)?);
            }
            let had = kept.each_ref().map(BTreeSet::len);
            ensure!(had.iter().all(|count| *count >= 5), "they have had {had:?}");
            Ok(())
        })
        .await?;
        platform.heard("late", true).await?;

        // Away for longer than a life: nobody takes its word any more, and its machine goes on.
        late.end().await?;
        tokio::time::sleep(SHORT_LIFE + Duration::from_secs(1)).await;
        late.start(&Origin::HasJoined).await?;
        until("it says that its certificate has lapsed", SOON, async || {
            let log = std::fs::read_to_string(late.host().status()?.logs.join("atoll.log"))?;
            ensure!(log.contains("has lapsed") && log.contains("atoll join"), "it does not");
            Ok(())
        })
        .await?;
        platform.heard("late", false).await?;

        late.end().await?;
        let (control, token) = (platform.nodes_address()?, platform.client().node_token().await?.token);
        late.start(&Origin::Joins { control, token }).await?;
        platform.heard("late", true).await?;
        let (after, _) = until("it is served again", SOON, async || see(&host, &question).await).await?;
        ensure!((&after.who.machine, &after.who.boot_id) == (&id, &before.who.boot_id), "another one: {after:?}");
        let machines = platform.client().machines("hello").await?;
        ensure!(machines.len() == 1 && machines[0].id.to_string() == id, "{machines:?}");
        ensure!(nodes(platform).await? == 2, "it is listed twice");
        // And it is control's to change.
        platform.stop_machine("hello", &id).await?;
        Ok(())
    });
}

#[test]
fn servers_outlive_a_control_that_is_away_for_longer_than_certificates_live() {
    trial("control_away", PAIR, async |platform| {
        let late = join_with_lives_of(platform, SHORT_LIFE).await?;
        platform.heard("late", true).await?;

        let first = platform.node_mut("ams")?;
        first.end().await?;
        tokio::time::sleep(SHORT_LIFE + Duration::from_secs(1)).await;
        // One of its processes begins anew in the meantime.
        let edge = late.kill(Role::Edge).await?;
        late.replaced(Role::Edge, edge).await?;
        // As if that had been an hour: less than a minute and a half is no absence.
        let first = platform.node_mut("ams")?;
        let alive = first.seen_from_outside(&first.state()?.join("control/alive"))?;
        let at: u64 = std::fs::read_to_string(&alive)?.trim().parse()?;
        std::fs::write(&alive, (at - 3600).to_string())?;
        first.start(&Origin::First).await?;
        platform.heard("late", true).await?;
        let log = late.log_end();
        ensure!(!log.contains("has lapsed and cannot be renewed"), "{log}");
        Ok(())
    });
}
