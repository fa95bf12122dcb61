//! `atoll node`

use clap::Subcommand;

use atoll_client::Client;

use crate::outcome::{CliResult, Outcome};
use crate::printer::now_ms;
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List the platform's servers
    List,
    /// Tokens for servers that join
    #[command(subcommand)]
    Token(NodeTokenCommand),
    /// Move nothing new onto a server; what it runs goes on
    Drain { name: String },
    /// End a drain
    Undrain { name: String },
    /// Void a server's identity at once; it is cut off from the platform
    Revoke { name: String },
    /// Take a server out of the platform
    Remove {
        name: String,
        /// It is gone for good: give up its machines
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
                            node.machines.to_string(),
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
        NodeCommand::Drain { name } => change(client, printer, &name, "drain", false).await,
        NodeCommand::Undrain { name } => change(client, printer, &name, "undrain", false).await,
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

async fn change(client: &Client, printer: &Printer, name: &str, verb: &str, lost: bool) -> CliResult {
    let answer = client.node_change(name, verb, lost).await?;
    printer.data(&answer, |printer| printer.note(&format!("{verb} {name}: done")));
    Ok(Outcome::Done)
}
