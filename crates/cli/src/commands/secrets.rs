//! `atoll secrets`

use std::collections::BTreeMap;
use std::io::Read;

use clap::Subcommand;

use atoll_client::Client;

use crate::outcome::{CliResult, Outcome};
use crate::target::AppTarget;
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum SecretsCommand {
    /// Set secrets: NAME=VALUE, or NAME=- to read the value from standard input
    Set {
        #[arg(required = true, value_name = "NAME=VALUE")]
        values: Vec<String>,
        #[command(flatten)]
        target: AppTarget,
    },
    /// List names and digests
    List(AppTarget),
    /// Remove secrets
    Unset {
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        target: AppTarget,
    },
}

pub async fn run(command: SecretsCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        SecretsCommand::Set { values, target } => {
            let values = values.iter().map(|text| parse_secret(text)).collect::<Result<_, _>>()?;
            change(client, printer, &target.name()?, &values).await
        }
        SecretsCommand::Unset { names, target } => {
            let app = target.name()?;
            let known = client.secrets(&app).await?;
            let known = known["secrets"].as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(name) = names.iter().find(|name| known.iter().all(|secret| secret["name"] != **name)) {
                return Err(CliError::NotFound { message: format!("app {app} has no secret {name}") });
            }
            let values = names.into_iter().map(|name| (name, None)).collect();
            change(client, printer, &app, &values).await
        }
        SecretsCommand::List(target) => {
            let secrets = client.secrets(&target.name()?).await?;
            printer.data(&secrets, |printer| {
                let list = secrets["secrets"].as_array().map(Vec::as_slice).unwrap_or_default();
                let text = |secret: &serde_json::Value, key: &str| secret[key].as_str().unwrap_or("-").to_owned();
                let rows =
                    list.iter().map(|s| vec![text(s, "name"), text(s, "digest"), text(s, "created_at")]).collect();
                printer.table(&["name", "digest", "set"], rows);
            });
            Ok(Outcome::Done)
        }
    }
}

async fn change(client: &Client, printer: &Printer, app: &str, values: &BTreeMap<String, Option<String>>) -> CliResult {
    let answer = client.secrets_set(app, values).await?;
    printer.data(&answer, |printer| {
        for (name, value) in values {
            printer.note(&format!("{} {name}", if value.is_some() { "set" } else { "removed" }));
        }
        printer.note("machines see it from the next deploy on");
    });
    Ok(Outcome::Done)
}

fn parse_secret(text: &str) -> Result<(String, Option<String>), CliError> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| CliError::Usage {
        message: "a secret is given as NAME=VALUE".into(),
        hint: Some("NAME=- reads the value from standard input".into()),
    })?;
    if value != "-" {
        return Ok((name.to_owned(), Some(value.to_owned())));
    }
    let mut value = String::new();
    std::io::stdin().read_to_string(&mut value).map_err(CliError::io("read the secret from standard input"))?;
    Ok((name.to_owned(), Some(value.strip_suffix('\n').map(str::to_owned).unwrap_or(value))))
}
