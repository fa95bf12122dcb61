//! `atoll registry`

use std::io::Read;
use std::path::PathBuf;

use clap::Subcommand;

use atoll_client::Client;
use atoll_model::wire::RegistryRequest;

use crate::outcome::{CliResult, Outcome};
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum RegistryCommand {
    /// Keep a login, which every later pull from this registry uses
    ///
    /// The platform seals the password and shows it to nobody.
    Login {
        /// Host of the registry, with its port if it is not 443, such as registry.example:5000
        host: String,
        /// User name [default: none, with --insecure alone]
        #[arg(long, short)]
        username: Option<String>,
        /// File with the password; - reads standard input
        #[arg(long, requires = "username")]
        password_file: Option<PathBuf>,
        /// Speak to this registry without TLS
        #[arg(long)]
        insecure: bool,
    },
    /// List registries that have a login here, without passwords
    List,
    /// Forget a registry's login
    Logout { host: String },
}

pub async fn run(command: RegistryCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        RegistryCommand::Login { host, username, password_file, insecure } => {
            let password = match (&username, password_file) {
                (Some(_), Some(file)) => read_password(file)?,
                (Some(_), None) => {
                    return Err(CliError::usage("a login needs --password-file: a file, or - for standard input"));
                }
                (None, _) => String::new(),
            };
            let request = RegistryRequest { user: username.unwrap_or_default(), password, insecure };
            client.registry_set(&host, &request).await?;
            printer.note(&format!("pulls from {host} use this from now on"));
        }
        RegistryCommand::List => {
            let registries = client.registries().await?;
            printer.data(&registries, |printer| {
                let rows = registries
                    .iter()
                    .map(|one| {
                        let tls = if one.insecure { "no" } else { "yes" };
                        vec![one.host.clone(), one.user.clone().unwrap_or_default(), tls.to_owned()]
                    })
                    .collect();
                printer.table(&["host", "user", "tls"], rows);
            });
        }
        RegistryCommand::Logout { host } => {
            client.registry_remove(&host).await?;
            printer.note(&format!("forgot the login at {host}"));
        }
    }
    Ok(Outcome::Done)
}

/// The file's text without the line end that editors add.
fn read_password(file: PathBuf) -> Result<String, CliError> {
    let read = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(&file)
    };
    let text = read.map_err(CliError::io(format!("read the password from {}", file.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
