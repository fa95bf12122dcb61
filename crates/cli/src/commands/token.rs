//! `atoll token`

use std::time::Duration;

use clap::Subcommand;

use atoll_client::Client;
use atoll_model::GoDuration;
use atoll_model::wire::TokenRequest;

use crate::Printer;
use crate::outcome::{CliResult, Outcome};
use crate::printer::timestamp;

#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a token; it is shown once
    Create {
        name: String,
        /// What it may do
        #[arg(long, default_value = "owner", value_parser = ["owner", "read-only"])]
        role: String,
        /// How long it works, such as 720h [default: for ever]
        #[arg(long)]
        expiry: Option<GoDuration>,
    },
    /// List tokens, without their secrets
    List,
    /// Make a token void
    Revoke { id: String },
}

pub async fn run(command: TokenCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        TokenCommand::Create { name, role, expiry } => {
            let expires_in = expiry.map(|GoDuration(duration): GoDuration| Duration::as_secs(&duration));
            let reply = client.token_create(&TokenRequest { name, role, expires_in }).await?;
            printer.data(&reply, |printer| printer.line(reply.token.as_deref().unwrap_or_default()));
        }
        TokenCommand::List => {
            let tokens = client.tokens().await?;
            printer.data(&tokens, |printer| {
                let rows = tokens
                    .iter()
                    .map(|token| {
                        let expires = token.expires_at_ms.map_or_else(|| "never".to_owned(), timestamp);
                        vec![token.id.clone(), token.name.clone(), token.role.clone(), expires]
                    })
                    .collect();
                printer.table(&["id", "name", "role", "expires"], rows);
            });
        }
        TokenCommand::Revoke { id } => {
            client.token_revoke(&id).await?;
            printer.done(&format!("revoked {id}"), serde_json::json!({"revoked": id}));
        }
    }
    Ok(Outcome::Done)
}
