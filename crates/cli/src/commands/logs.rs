//! `atoll logs`

use clap::Args;

use atoll_client::{Client, LogQuery};

use crate::Printer;
use crate::outcome::{CliResult, Outcome};
use crate::printer::timestamp;
use crate::target::AppTarget;

#[derive(Args, Debug)]
pub struct LogsCommand {
    #[command(flatten)]
    pub target: AppTarget,
    /// Go on as lines come
    #[arg(short, long)]
    pub follow: bool,
    /// Only this machine
    #[arg(long, value_name = "ID")]
    pub machine: Option<String>,
    /// Only this region
    #[arg(short, long, value_name = "CODE")]
    pub region: Option<String>,
    /// How many lines back
    #[arg(short = 'n', long, default_value_t = 100)]
    pub tail: u32,
}

pub async fn run(command: LogsCommand, client: &Client, printer: &Printer) -> CliResult {
    let app = command.target.name()?;
    let query =
        LogQuery { machine: command.machine, region: command.region, tail: command.tail, follow: command.follow };
    let mut lines = client.logs(&app, &query).await?;
    while let Some(record) = lines.next().await? {
        if printer.json {
            printer.line(&serde_json::to_string(&record).unwrap_or_default());
        } else {
            let time = timestamp(record.timestamp_ms);
            printer
                .line(&format!("{time} {} {} [{}] {}", record.region, record.machine, record.stream, record.message));
        }
    }
    Ok(Outcome::Done)
}
