//! `atoll logs`

use std::time::Duration;

use clap::Args;

use atoll_client::{Client, ClientError, Kind, LogQuery};

use crate::Printer;
use crate::outcome::{CliResult, Outcome};
use crate::printer::timestamp;
use crate::target::AppTarget;

/// Between two streams of one who follows.
const PAUSE: Duration = Duration::from_secs(1);
/// Streams in a row that may fail before following ends.
const FAILURES_MAX: u32 = 20;
/// Lines asked for again after a stream ended.
const CAUGHT_UP: u32 = 1000;

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
    let mut query =
        LogQuery { machine: command.machine, region: command.region, tail: command.tail, follow: command.follow };
    let mut newest_ms = None;
    let mut failures = 0;
    loop {
        match show(&app, &query, &mut newest_ms, client, printer).await {
            Ok(()) if !query.follow => return Ok(Outcome::Done),
            Ok(()) => failures = 0,
            // Whoever follows goes on over a restart of the server, also where an edge tells of it.
            Err(error) if error.kind() == Kind::Unavailable && query.follow && failures < FAILURES_MAX => {
                failures += 1;
            }
            Err(error) => return Err(error.into()),
        }
        // The app has no machine yet, or the connection broke: lines that came meanwhile are caught up.
        tokio::time::sleep(PAUSE).await;
        query.tail = query.tail.max(CAUGHT_UP);
    }
}

/// Shows lines until the server ends the stream; after the first stream only what is newer.
async fn show(
    app: &str,
    query: &LogQuery,
    newest_ms: &mut Option<u64>,
    client: &Client,
    printer: &Printer,
) -> Result<(), ClientError> {
    let known = *newest_ms;
    let mut lines = client.logs(app, query).await?;
    while let Some(record) = lines.next().await? {
        if known.is_some_and(|known| record.timestamp_ms <= known) {
            continue;
        }
        *newest_ms = (*newest_ms).max(Some(record.timestamp_ms));
        if printer.json {
            printer.line(&serde_json::to_string(&record).unwrap_or_default());
        } else {
            let time = timestamp(record.timestamp_ms);
            printer
                .line(&format!("{time} {} {} [{}] {}", record.region, record.machine, record.stream, record.message));
        }
    }
    Ok(())
}
