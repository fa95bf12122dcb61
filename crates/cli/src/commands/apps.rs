//! `atoll apps`

use clap::Subcommand;
use serde_json::json;

use atoll_client::Client;

use crate::outcome::{CliResult, Outcome};
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum AppsCommand {
    /// Create an app
    Create {
        /// Letters, digits and dashes; becomes its host name
        name: String,
        #[arg(long, default_value = "personal")]
        org: String,
    },
    /// List apps
    List {
        #[arg(long, default_value = "personal")]
        org: String,
    },
    /// Destroy an app with its machines
    Destroy {
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

pub async fn run(command: AppsCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        AppsCommand::Create { name, org } => {
            let created = client.app_create(&name, &org).await?;
            printer.data(&created, |printer| {
                printer.line(&format!("created app {name}"));
                printer.note(&format!("next: `atoll deploy -a {name}` in a folder with a fly.toml"));
            });
        }
        AppsCommand::List { org } => {
            let list = client.app_list(&org).await?;
            printer.data(&list, |printer| {
                let apps = list["apps"].as_array().map(Vec::as_slice).unwrap_or_default();
                let text = |app: &serde_json::Value, key: &str| app[key].as_str().unwrap_or("-").to_owned();
                let rows = apps
                    .iter()
                    .map(|app| vec![text(app, "name"), text(app, "status"), app["machine_count"].to_string()])
                    .collect();
                printer.table(&["name", "status", "machines"], rows);
            });
        }
        AppsCommand::Destroy { name, yes } => {
            if !yes && !confirmed(&name)? {
                return Err(CliError::failed("nothing was destroyed"));
            }
            client.app_destroy(&name).await?;
            printer.done(&format!("destroyed app {name}"), json!({"destroyed": name}));
        }
    }
    Ok(Outcome::Done)
}

/// Asks for the app's name; without a terminal nobody can answer.
fn confirmed(name: &str) -> Result<bool, CliError> {
    use std::io::{IsTerminal, Write};
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage {
            message: format!("this destroys {name} with all its machines"),
            hint: Some("say --yes".into()),
        });
    }
    eprint!("This destroys {name} with all its machines. Type its name to go on: ");
    std::io::stderr().flush().map_err(CliError::io("ask"))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(CliError::io("read the answer"))?;
    Ok(answer.trim() == name)
}
