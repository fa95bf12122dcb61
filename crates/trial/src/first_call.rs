//! What a restart of the net process costs a machine that calls another server right then.

use std::net::Ipv6Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};

use crate::platform::{Node, Role};
use crate::wait::until;

/// Opens connections one after another, without waiting, and says of each when it began and how long it took
/// until the first line of its answer, in microseconds.
const CALLS: &str = r#"
for i in $(seq 200); do
    (
        began=${EPOCHREALTIME/./}
        exec 3<>"/dev/tcp/$0/8080" && printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3 && read -r -t 5 line <&3 &&
            echo "$began $((${EPOCHREALTIME/./} - began))"
    ) 2>/dev/null &
    sleep 0.02
done
wait
"#;
/// Whatever becomes of them.
const LIMIT: &str = "40";
/// TCP repeats a lost first segment after this time: such calls met no link.
const REPEATED: Duration = Duration::from_secs(1);
/// Until tickets that were given are on disk.
const KEPT_WITHIN: Duration = Duration::from_secs(30);

/// A process that ran this long is started again at once when it dies.
const WELL_AFTER: Duration = Duration::from_secs(11);

/// The first call after a restart whose packets found a link.
#[derive(Clone, Copy, Debug)]
pub struct FirstCall {
    /// From the death of the process to the call's beginning: how long nothing was carried.
    pub began_after: Duration,
    /// Connecting and a small request together.
    pub took: Duration,
}

/// Kills the net process of a node, while a machine there opens one connection after another to an address.
///
/// # Errors
/// If no call succeeds after the restart.
pub async fn after_restart(node: &Node, machine: &str, to: Ipv6Addr) -> anyhow::Result<FirstCall> {
    until("the process has run long enough", KEPT_WITHIN, async || {
        let began = Duration::from_secs(net_metric(node, "atoll_process_start_time_seconds", &[]).await?);
        let age = SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_sub(began);
        ensure!(age > WELL_AFTER, "it has run for {age:.1?}");
        Ok(())
    })
    .await?;
    let to = to.to_string();
    let arguments = [LIMIT, "bash", "-c", CALLS, &to];
    let calling = node.in_machine(machine, "timeout", &arguments);
    let killing = async {
        // Answers to what is under way by now find nobody: such calls take longer than a repetition.
        let killed = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let old = node.kill(Role::Net).await?;
        node.replaced(Role::Net, old).await?;
        anyhow::Ok(killed)
    };
    let (called, killed) = tokio::join!(calling, killing);
    let (called, killed) = (String::from_utf8(called?.stdout)?, killed?);
    let calls = called.lines().filter_map(|line| {
        let (began, took) = line.split_once(' ')?;
        Some((Duration::from_micros(began.parse().ok()?), Duration::from_micros(took.parse().ok()?)))
    });
    let after = calls.filter(|(began, took)| *began > killed && *took < REPEATED);
    let (began, took) = after.min().with_context(|| format!("no call succeeded after the restart:\n{called}"))?;
    Ok(FirstCall { began_after: began - killed, took })
}

/// A figure of the net process's own, such as `atoll_mesh_resumption_tickets`, with its labels.
pub async fn net_metric(node: &Node, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<u64> {
    node.metric(Role::Net, name, labels).await
}

/// Waits until the node has a ticket of every other one on disk.
pub async fn has_tickets(node: &Node, of: u64) -> anyhow::Result<()> {
    until("tickets are kept", KEPT_WITHIN, async || {
        let kept = net_metric(node, "atoll_mesh_resumption_tickets", &[]).await?;
        ensure!(kept == of, "{kept} of {of}");
        Ok(())
    })
    .await?;
    Ok(())
}

/// Takes the kept tickets away, so that the next process begins without.
pub fn lose_tickets(node: &Node) -> anyhow::Result<()> {
    let file = node.seen_from_outside(&node.state()?.join("net/tickets"))?;
    std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
}
