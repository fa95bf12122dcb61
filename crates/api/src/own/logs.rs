//! `GET /api/v1/apps/{app}/logs`: lines of an app's machines, as JSON lines, from all their nodes.

mod follow;

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;
use utoipa::ToSchema;

use atoll_identity::Action;
use atoll_model::wire::LogRecord;
use atoll_model::{AppName, NodeName};
use atoll_rpc::proto::worker::worker_client::WorkerClient;
use atoll_rpc::proto::worker::{LogLine, LogsRequest};
use atoll_store::MachineRecord;

use crate::Api;
use crate::answer::Lines;
use crate::auth::Auth;
use crate::body::{Flag, Params};
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};

pub fn routes() -> Routes {
    Routes::default().get("/api/v1/apps/{app_name}/logs", "logs", "What an app's machines print", logs)
}

#[derive(Deserialize, ToSchema)]
struct LogsQuery {
    machine: Option<String>,
    region: Option<String>,
    /// Lines of the past; 100 if absent, 10,000 at most.
    tail: Option<u32>,
    /// Go on with what is printed from now on.
    #[serde(default)]
    #[schema(value_type = bool)]
    follow: Flag,
}

const MAX_TAIL: u32 = 10_000;
/// Sent while nothing is said, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

async fn logs(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Params(query): Params<LogsQuery>,
) -> ApiResult<Lines<LogRecord>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let tail = query.tail.unwrap_or(100).min(MAX_TAIL);
    let wanted = Wanted { app: app.name, machine: query.machine, region: query.region };
    let records = api.control.machine_records(&wanted.app, false).await?;
    if let Some(machine) = &wanted.machine
        && records.iter().all(|record| record.id.to_string() != *machine)
    {
        return Err(ApiError::not_found(format!("app {} has no machine {machine:?}", wanted.app)));
    }
    let (sender, receiver) = mpsc::channel::<LogRecord>(256);
    if query.follow.0 {
        tokio::spawn(follow::follow(api, wanted, tail, sender));
        return Ok(following(receiver));
    }
    for node in wanted.nodes(&records) {
        let request = wanted.request(0, tail, false);
        // A node that does not answer must not keep the others' lines.
        let Ok(worker) = api.control.directory.worker(&node) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            if let Err(status) = pass_on(worker, request, &sender, |_| {}).await {
                tracing::info!(%node, %status, "a node gives no logs");
            }
        });
    }
    drop(sender);
    Ok(sorted(receiver, tail).await)
}

/// Whose lines are wanted.
struct Wanted {
    app: AppName,
    machine: Option<String>,
    region: Option<String>,
}

impl Wanted {
    /// The servers that have such machines.
    fn nodes(&self, records: &[MachineRecord]) -> BTreeSet<NodeName> {
        records
            .iter()
            .filter(|record| self.machine.as_ref().is_none_or(|wanted| *wanted == record.id.to_string()))
            .filter(|record| self.region.as_deref().is_none_or(|wanted| wanted == record.region.as_str()))
            .map(|record| record.node.clone())
            .collect()
    }

    fn request(&self, after_ms: u64, tail: u32, follow: bool) -> LogsRequest {
        LogsRequest {
            machine: self.machine.clone().unwrap_or_default(),
            app: self.app.to_string(),
            after_ms,
            tail,
            follow,
        }
    }
}

/// Passes a server's lines on until either side ends. `seen` is told the time of each.
async fn pass_on(
    mut worker: WorkerClient<Channel>,
    request: LogsRequest,
    to: &mpsc::Sender<LogRecord>,
    mut seen: impl FnMut(u64),
) -> Result<(), Status> {
    let mut lines = worker.logs(request).await?.into_inner();
    while let Some(line) = lines.message().await? {
        let Some(record) = record(line) else { continue };
        let at_ms = record.timestamp_ms;
        if to.send(record).await.is_err() {
            break;
        }
        seen(at_ms);
    }
    Ok(())
}

fn record(line: LogLine) -> Option<LogRecord> {
    Some(LogRecord {
        timestamp_ms: line.timestamp_ms,
        app: line.app.parse().ok()?,
        machine: line.machine.parse().ok()?,
        region: line.region.parse().ok()?,
        stream: line.stream,
        message: line.text,
    })
}

fn encode(record: &LogRecord) -> Bytes {
    let mut line = serde_json::to_vec(record).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// All lines, by their time.
async fn sorted(mut lines: mpsc::Receiver<LogRecord>, tail: u32) -> Lines<LogRecord> {
    let mut records = Vec::new();
    while let Some(record) = lines.recv().await {
        records.push(record);
    }
    records.sort_by_key(|record| record.timestamp_ms);
    let skip = records.len().saturating_sub(tail as usize);
    Lines::whole(records.iter().skip(skip).map(encode).collect::<Vec<_>>().concat())
}

fn following(lines: mpsc::Receiver<LogRecord>) -> Lines<LogRecord> {
    let lines =
        ReceiverStream::new(lines).map(|record| encode(&record)).timeout_repeating(tokio::time::interval(KEEP_ALIVE));
    Lines::stream(lines.map(|line| line.unwrap_or_else(|_| Bytes::from_static(b"\n"))))
}
