//! `atoll auth`

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use atoll_client::Client;

use crate::connect::LoginFile;
use crate::outcome::{CliResult, Outcome};
use crate::{CliError, Connection, Printer};

#[derive(Subcommand, Debug)]
pub enum AuthCommand {
    /// Keep a platform's address and token for later commands
    Login {
        /// The API, such as https://atoll.example:4280
        api: String,
        /// The token; read from standard input when absent
        #[arg(long, env = "ATOLL_TOKEN", hide_env_values = true)]
        token: Option<String>,
    },
    /// Forget the login
    Logout,
    /// Show which platform commands talk to
    Whoami,
}

pub async fn run(command: AuthCommand, connection: &Connection, printer: &Printer) -> CliResult {
    match command {
        AuthCommand::Login { api, token } => login(api, token, connection.ca.clone(), printer).await,
        AuthCommand::Logout => {
            let path = LoginFile::default().save()?;
            printer.done(&format!("forgot the login in {}", path.display()), json!({"file": path}));
            Ok(Outcome::Done)
        }
        AuthCommand::Whoami => {
            let client = connection.client()?;
            let tokens = client.raw(reqwest::Method::GET, "/v1/tokens/current", None).await?;
            printer.data(&tokens, |printer| {
                let org = tokens["tokens"][0]["org_slug"].as_str().unwrap_or("?");
                printer.line(&format!("{} as {org}", client.base()));
            });
            Ok(Outcome::Done)
        }
    }
}

async fn login(api: String, token: Option<String>, ca: Option<PathBuf>, printer: &Printer) -> CliResult {
    let token = match token {
        Some(token) => token,
        None => {
            printer.note("paste the token:");
            let mut text = String::new();
            std::io::stdin().read_line(&mut text).map_err(CliError::io("read the token"))?;
            text
        }
    };
    let token = token.trim().to_owned();
    let ca = ca.map(|path| path.canonicalize().unwrap_or(path));
    // A login that does not work is not kept.
    Client::new(&api, Some(token.clone()), ca.as_deref())?.app_list("personal").await?;
    let path = LoginFile { api: Some(api.clone()), token: Some(token), ca }.save()?;
    printer.done(&format!("logged in; kept in {}", path.display()), json!({"api": api, "file": path}));
    Ok(Outcome::Done)
}
