//! `atoll releases`

use clap::Args;

use atoll_client::Client;

use crate::Printer;
use crate::outcome::{CliResult, Outcome};
use crate::printer::{age, now_ms};
use crate::target::AppTarget;

const REASON_CHARS: usize = 60;

#[derive(Args, Debug)]
pub struct ReleasesCommand {
    #[command(flatten)]
    pub target: AppTarget,
}

pub async fn run(command: ReleasesCommand, client: &Client, printer: &Printer) -> CliResult {
    let releases = client.releases(&command.target.name()?).await?;
    printer.data(&releases, |printer| {
        let rows = releases
            .iter()
            .map(|release| {
                vec![
                    format!("v{}", release.version),
                    release.status.as_str().to_owned(),
                    release.image.clone(),
                    release.strategy.clone(),
                    release.created_by.clone(),
                    age(release.created_at_ms, now_ms()),
                    release.reason.as_deref().map(short).unwrap_or_default(),
                ]
            })
            .collect();
        printer.table(&["release", "status", "image", "strategy", "by", "when", "reason"], rows);
    });
    Ok(Outcome::Done)
}

/// The beginning of a reason; all of it is in the JSON and was shown by the deploy.
fn short(reason: &str) -> String {
    match reason.char_indices().nth(REASON_CHARS) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}
