//! `atoll releases`

use clap::Args;

use atoll_client::Client;

use crate::Printer;
use crate::outcome::{CliResult, Outcome};
use crate::printer::{age, now_ms};
use crate::target::AppTarget;

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
                    release.reason.clone().unwrap_or_default(),
                ]
            })
            .collect();
        printer.table(&["release", "status", "image", "strategy", "by", "when", ""], rows);
    });
    Ok(Outcome::Done)
}
