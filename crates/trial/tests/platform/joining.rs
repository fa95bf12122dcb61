//! Servers that may not join, and ones that cannot start: each ends at once and says why.

use std::process::Stdio;

use anyhow::{Context, ensure};

use atoll_trial::platform::{Node, Origin, Platform};

use crate::support::trial;

/// A second host that is no server yet.
const PAIR: &str = r#"
[[host]]
name = "ams"
city = "ams"
role = "node"

[[host]]
name = "late"
city = "nrt"
role = "client"
"#;

/// Starts a server that must fail; gives what it said.
async fn refused(node: &Node, origin: &Origin) -> anyhow::Result<String> {
    let mut command = node.command(origin)?;
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let limit = std::time::Duration::from_secs(20);
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
