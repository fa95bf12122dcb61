//! `atoll node`

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Subcommand;

use atoll_client::Client;
use atoll_model::MachineId;
use atoll_model::row::NodeState;
use atoll_model::wire::NodeSummary;

use crate::outcome::{CliResult, Outcome};
use crate::printer::now_ms;
use crate::{CliError, Printer};

/// How often a drain is looked at.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List the platform's servers
    List,
    /// Tokens for servers that join
    #[command(subcommand)]
    Token(NodeTokenCommand),
    /// Move a server's machines to others of their region, and nothing new onto it
    #[command(after_help = "Each machine is made again elsewhere and must work there before the old one goes: \
        no request is lost. Machines get new ids and names. What cannot go, for want of another server in its \
        region, stays and serves.")]
    Drain {
        name: String,
        /// End the drain: what has moved stays where it is
        #[arg(long)]
        undo: bool,
        /// Do not wait until the machines have moved
        #[arg(long, conflicts_with = "undo")]
        detach: bool,
    },
    /// Void a server's identity at once; it is cut off from the platform
    Revoke { name: String },
    /// Take a server out of the platform
    Remove {
        name: String,
        /// It is gone for good: its machines are made again elsewhere
        #[arg(long)]
        lost: bool,
    },
}

#[derive(Subcommand, Debug)]
pub enum NodeTokenCommand {
    /// Print a token for `atoll join`; works once, for 15 minutes
    Create,
}

pub async fn run(command: NodeCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        NodeCommand::List => {
            let nodes = client.nodes().await?;
            printer.data(&nodes, |printer| {
                let rows = nodes
                    .iter()
                    .map(|node| {
                        let state = serde_json::to_value(node.state).ok().and_then(|v| v.as_str().map(str::to_owned));
                        let heard = if node.reachable { "yes" } else { "no" };
                        vec![
                            node.name.to_string(),
                            node.region.to_string(),
                            state.unwrap_or_default(),
                            heard.to_owned(),
                            machines(node),
                            format!("{}", node.cpus),
                            format!("{} MB", node.memory_mb),
                            node.backhaul.clone(),
                        ]
                    })
                    .collect();
                printer.table(&["name", "region", "state", "heard", "machines", "cpus", "memory", "backhaul"], rows);
            });
            Ok(Outcome::Done)
        }
        NodeCommand::Token(NodeTokenCommand::Create) => {
            let reply = client.node_token().await?;
            printer.data(&reply, |printer| {
                printer.line(&reply.token);
                let minutes = reply.expires_at_ms.saturating_sub(now_ms()).div_ceil(60_000);
                printer.note(&format!(
                    "works once, for {minutes} minutes; on the new server run:\n  atoll join {} --token <token> --region <code>",
                    reply.control
                ));
            });
            Ok(Outcome::Done)
        }
        NodeCommand::Drain { name, undo: true, .. } => change(client, printer, &name, "undrain", false).await,
        NodeCommand::Drain { name, undo: false, detach } => {
            client.node_change(&name, "drain", false).await?;
            follow(client, printer, &name, detach).await
        }
        NodeCommand::Revoke { name } => change(client, printer, &name, "revoke", false).await,
        NodeCommand::Remove { name, lost } => {
            if !lost {
                return Err(CliError::Usage {
                    message: "a server that still answers is drained and stopped first".into(),
                    hint: Some("`atoll node drain`, stop it, then `atoll node remove --lost`".into()),
                });
            }
            change(client, printer, &name, "remove", lost).await
        }
    }
}

/// How many there are, and of a drain how far it is.
fn machines(node: &NodeSummary) -> String {
    let stay = node.leaving.iter().filter(|machine| machine.to.is_none()).count();
    match node.leaving.len() {
        0 => node.machines.to_string(),
        all => format!("{} ({} to move, {stay} stay)", node.machines, all - stay),
    }
}

/// Shows a drain until every machine that can go has gone.
async fn follow(client: &Client, printer: &Printer, name: &str, detach: bool) -> CliResult {
    let mut told: BTreeMap<MachineId, String> = BTreeMap::new();
    loop {
        let nodes = client.nodes().await?;
        let node = nodes.into_iter().find(|node| node.name.as_str() == name);
        let node = node.ok_or_else(|| CliError::failed(format!("there is no server {name} any more")))?;
        let left: BTreeSet<MachineId> = node.leaving.iter().map(|machine| machine.id).collect();
        for machine in told.keys().filter(|machine| !left.contains(machine)) {
            printer.note(&format!("{machine}  has moved"));
        }
        told.retain(|machine, _| left.contains(machine));
        for machine in &node.leaving {
            let text = match &machine.to {
                Some(to) if machine.moving => format!("moving to {to}"),
                Some(to) => format!("will move to {to}"),
                None => format!("stays: {}", machine.why),
            };
            if told.get(&machine.id) != Some(&text) {
                printer.note(&format!("{}  {}  {text}", machine.id, machine.app));
                told.insert(machine.id, text);
            }
        }
        let goes = node.leaving.iter().any(|machine| machine.to.is_some());
        if detach || !goes || node.state != NodeState::Draining {
            let stay = node.leaving.len();
            printer.data(&node, |printer| match stay {
                0 => printer.note(&format!("{name} is drained: it has no machines")),
                _ if detach => printer.note(&format!("{name} is being drained; `atoll node list` shows how far it is")),
                _ => printer.note(&format!("{name} is drained but for {stay} machines that stay and serve")),
            });
            return Ok(Outcome::Done);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn change(client: &Client, printer: &Printer, name: &str, verb: &str, lost: bool) -> CliResult {
    let answer = client.node_change(name, verb, lost).await?;
    printer.data(&answer, |printer| printer.note(&format!("{verb} {name}: done")));
    Ok(Outcome::Done)
}
