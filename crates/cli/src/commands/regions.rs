//! `atoll regions`

use clap::Args;

use atoll_client::Client;

use crate::Printer;
use crate::outcome::{CliResult, Outcome};

#[derive(Args, Debug)]
pub struct RegionsCommand {}

pub async fn run(_command: RegionsCommand, client: &Client, printer: &Printer) -> CliResult {
    let regions = client.regions().await?;
    printer.data(&regions, |printer| {
        let list = regions["regions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rows = list
            .iter()
            .map(|region| {
                let text = |key: &str| region[key].as_str().unwrap_or("-").to_owned();
                vec![text("code"), text("name"), text("geo_region")]
            })
            .collect();
        printer.table(&["code", "name", "area"], rows);
    });
    Ok(Outcome::Done)
}
