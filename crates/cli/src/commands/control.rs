//! `atoll control`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use tokio::io::AsyncWriteExt;

use atoll_client::{Client, ClientError};

use super::audit::{self, AuditCommand};
use crate::outcome::{CliResult, Outcome};
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum ControlCommand {
    /// Show who changed what, newest first
    Audit(AuditCommand),
    /// Write a consistent copy of control's records to a file
    Backup {
        /// Must not exist yet
        file: PathBuf,
    },
    /// Fill a new server's records from a backup, before its first `atoll up`
    ///
    /// Works on the server itself. Secrets stay sealed: put the old server's control/root.key into
    /// the new state folder too.
    Restore {
        file: PathBuf,
        /// The new server's state folder
        #[arg(long, env = "ATOLL_STATE", default_value = "/var/lib/atoll")]
        state: PathBuf,
        /// The new server's records, when they are not in its state folder: postgres://…
        #[arg(long, env = "ATOLL_DATABASE")]
        database: Option<String>,
    },
}

pub async fn run(command: ControlCommand, client: &Client, printer: &Printer) -> CliResult {
    let file = match command {
        ControlCommand::Audit(command) => return audit::run(command, client, printer).await,
        ControlCommand::Backup { file } => file,
        ControlCommand::Restore { .. } => {
            return Err(CliError::usage("a restore works on the server itself, not through its API"));
        }
    };
    if file.exists() {
        return Err(CliError::usage(format!("{} exists already", file.display())));
    }
    let temporary = file.with_extension("partial");
    let written = download(client, &temporary).await;
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(error) => {
            // What is half a backup must not be taken for one; that it could not be removed adds nothing.
            tokio::fs::remove_file(&temporary).await.ok();
            return Err(error);
        }
    };
    tokio::fs::rename(&temporary, &file).await.map_err(CliError::io(format!("write {}", file.display())))?;
    let text = format!("wrote {} ({})", file.display(), crate::printer::size(bytes));
    printer.done(&text, serde_json::json!({"file": file, "bytes": bytes}));
    Ok(Outcome::Done)
}

/// Writes the backup to a new file; answers its size in bytes.
async fn download(client: &Client, file: &Path) -> Result<u64, CliError> {
    let mut response = client.backup().await?;
    let write = format!("write {}", file.display());
    let mut out = tokio::fs::File::create(file).await.map_err(CliError::io(write.clone()))?;
    let mut bytes = 0;
    while let Some(chunk) = response.chunk().await.map_err(|error| ClientError::Broken(error.into()))? {
        bytes += chunk.len() as u64;
        out.write_all(&chunk).await.map_err(CliError::io(write.clone()))?;
    }
    out.sync_all().await.map_err(CliError::io(write))?;
    Ok(bytes)
}
