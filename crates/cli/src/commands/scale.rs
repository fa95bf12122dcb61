//! `atoll scale`

use std::collections::BTreeMap;

use clap::{Args, Subcommand};

use atoll_client::Client;
use atoll_model::RegionCode;
use atoll_model::wire::ScaleRequest;

use crate::outcome::CliResult;
use crate::target::AppTarget;
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum ScaleCommand {
    /// Set how many machines run per region: `2`, or `web=2 worker=1`
    Count(CountCommand),
}

#[derive(Args, Debug)]
pub struct CountCommand {
    #[arg(required = true, value_name = "COUNT|GROUP=COUNT")]
    counts: Vec<String>,
    /// Only in this region
    #[arg(short, long, value_name = "CODE")]
    region: Option<RegionCode>,
    #[command(flatten)]
    target: AppTarget,
}

pub async fn run(ScaleCommand::Count(command): ScaleCommand, client: &Client, printer: &Printer) -> CliResult {
    let app = command.target.name()?;
    let counts = command.counts.iter().map(|text| parse_count(text)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let accepted = client.scale(&app, &ScaleRequest { counts, region: command.region }).await?;
    super::deploy::follow(client, printer, &app, accepted.release).await
}

fn parse_count(text: &str) -> Result<(String, u32), CliError> {
    let (group, count) = text.split_once('=').unwrap_or(("app", text));
    let count = count.parse().map_err(|_| CliError::usage(format!("{text:?} is no count: write 2 or web=2")))?;
    Ok((group.to_owned(), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_count_is_the_default_groups() {
        assert_eq!(parse_count("2").unwrap(), ("app".to_owned(), 2));
        assert_eq!(parse_count("web=0").unwrap(), ("web".to_owned(), 0));
        assert!(parse_count("web=").is_err());
        assert!(parse_count("-1").is_err());
    }
}
