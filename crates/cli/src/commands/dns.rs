//! `atoll dns`

use clap::Subcommand;
use serde_json::json;

use atoll_client::Client;
use atoll_model::GoDuration;
use atoll_model::wire::{ChallengeRequest, ChallengeView};

use crate::outcome::{CliResult, Outcome};
use crate::printer::timestamp;
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum DnsCommand {
    /// Proofs for certificate authorities: TXT records at _acme-challenge.HOST
    #[command(subcommand)]
    Challenge(ChallengeCommand),
}

#[derive(Subcommand, Debug)]
pub enum ChallengeCommand {
    /// Let public DNS answer a value; returns when all of its servers do
    #[command(after_help = "Values at one host name stand beside each other. HOST may be written as the record's \
        name or with `*.` before it. A server that does not say in time that it answers is named in a warning.")]
    Add {
        /// The name to be proven: an app's, or for operators any that the platform's DNS answers for
        host: String,
        /// What the certificate authority wants to see
        value: String,
        /// For how long, 1m to 24h
        #[arg(long, default_value = "1h")]
        expiry: GoDuration,
    },
    /// List values that are answered, of one host name or of all
    List { host: Option<String> },
    /// Take a value back, or all of a host name
    Remove { host: String, value: Option<String> },
}

pub async fn run(command: DnsCommand, client: &Client, printer: &Printer) -> CliResult {
    let DnsCommand::Challenge(command) = command;
    match command {
        ChallengeCommand::Add { host, value, expiry: GoDuration(expiry) } => {
            // What is longer than any number of seconds is too long as well.
            let seconds = Some(u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX));
            add(client, printer, &ChallengeRequest { host, value, seconds }).await?;
        }
        ChallengeCommand::List { host } => {
            let found = client.challenges(host.as_deref()).await?;
            printer.data(&found, |printer| {
                let row = |it: &ChallengeView| vec![it.host.clone(), it.value.clone(), timestamp(it.ends_at_ms)];
                printer.table(&["host", "value", "until"], found.iter().map(row).collect());
            });
        }
        ChallengeCommand::Remove { host, value } => {
            client.challenge_remove(&host, value.as_deref()).await?;
            printer.done(&format!("{host} is proven no more"), json!({"removed": host, "value": value}));
        }
    }
    Ok(Outcome::Done)
}

async fn add(client: &Client, printer: &Printer, wanted: &ChallengeRequest) -> Result<(), CliError> {
    let added = client.challenge_add(wanted).await?;
    printer.data(&added, |printer| {
        printer.note(&format!("{} TXT has this value at {} servers", added.name, added.answered_by.len()));
    });
    for node in &added.waiting_for {
        printer.warn(&format!("{node} did not say that it answers with the value: it may be out of reach"));
    }
    Ok(())
}
