//! `atoll control`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use tokio::io::AsyncWriteExt;

use atoll_client::{Client, ClientError};
use atoll_model::wire::{AuthorityView, RootView, RotateRootRequest, RotationPhase};

use super::audit::{self, AuditCommand};
use crate::outcome::{CliResult, Outcome};
use crate::printer::now_ms;
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
    /// Show the platform's root certificate, and how far its replacement is
    Authority,
    /// Replace the platform's root certificate
    ///
    /// Only begins; control does the rest in some three hours, while everything goes on. First all servers
    /// learn of the next root, then it signs, then the old one is forgotten. `atoll control authority` shows
    /// how far it is. Copy control/ca again once it has begun and when it is over.
    RotateRoot {
        /// Go on though the old root's key is not in control/ca. Users who know the old root alone, and
        /// servers that are away until it is over, will not believe the new one
        #[arg(long)]
        old_key_lost: bool,
    },
}

pub async fn run(command: ControlCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        ControlCommand::Audit(command) => audit::run(command, client, printer).await,
        ControlCommand::Backup { file } => backup(&file, client, printer).await,
        ControlCommand::Restore { .. } => {
            Err(CliError::usage("a restore works on the server itself, not through its API"))
        }
        ControlCommand::Authority => {
            show(&client.authority().await?, printer);
            Ok(Outcome::Done)
        }
        ControlCommand::RotateRoot { old_key_lost } => {
            show(&client.authority_rotate(&RotateRootRequest { old_key_lost }).await?, printer);
            printer.note("begun; copy control/ca now, and again when it is over");
            Ok(Outcome::Done)
        }
    }
}

fn show(authority: &AuthorityView, printer: &Printer) {
    let now = now_ms() / 1000;
    printer.data(authority, |printer| {
        printer.table(&["root", "does", "days left", "signed by the one before"], rows(authority, now));
        if let Some(ends) = authority.phase_ends_at {
            let minutes = ends.saturating_sub(now).div_ceil(60);
            let then = match authority.phase {
                RotationPhase::Announced => "the next root signs",
                _ => "the old root is forgotten",
            };
            printer.note(&format!("{then} in {minutes} min, or later if control is away"));
        }
    });
}

/// A line for each root.
fn rows(authority: &AuthorityView, now: u64) -> Vec<Vec<String>> {
    let other = match authority.phase {
        RotationPhase::Announced => "comes next; is trusted already",
        _ => "went before; is trusted still",
    };
    let row = |root: &RootView, does: &str| {
        let days = root.ends_at.saturating_sub(now) / 86_400;
        let linked = if root.linked { "yes" } else { "no" };
        vec![root.fingerprint.chars().take(16).collect(), does.to_owned(), days.to_string(), linked.to_owned()]
    };
    let issuing = row(&authority.root, "signs");
    std::iter::once(issuing).chain(authority.other.iter().map(|root| row(root, other))).collect()
}

async fn backup(file: &Path, client: &Client, printer: &Printer) -> CliResult {
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
    tokio::fs::rename(&temporary, file).await.map_err(CliError::io(format!("write {}", file.display())))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_root_is_a_line() {
        let root = |letter: &str, linked| RootView { fingerprint: letter.repeat(64), ends_at: 10 * 86_400, linked };
        let mut authority = AuthorityView {
            phase: RotationPhase::Announced,
            root: root("a", false),
            other: Some(root("b", true)),
            phase_ends_at: Some(5400),
        };
        let lines =
            |authority: &AuthorityView| rows(authority, 0).iter().map(|row| row.join(" | ")).collect::<Vec<_>>();
        assert_eq!(
            lines(&authority),
            ["aaaaaaaaaaaaaaaa | signs | 10 | no", "bbbbbbbbbbbbbbbb | comes next; is trusted already | 10 | yes",]
        );
        authority.phase = RotationPhase::Overlapping;
        assert!(lines(&authority)[1].contains("went before"));
        authority.other = None;
        assert_eq!(lines(&authority).len(), 1);
    }
}
