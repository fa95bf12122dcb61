//! `GET /api/v1/apps/{app}/logs`: lines of an app's machines, as JSON lines, from all their nodes.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use atoll_identity::Action;
use atoll_model::wire::LogRecord;
use atoll_rpc::proto::worker::{LogLine, LogsRequest};

use crate::Api;
use crate::auth::Auth;
use crate::body::flag;
use crate::error::ApiResult;

pub fn routes() -> Router<Api> {
    Router::new().route("/api/v1/apps/{app}/logs", get(logs))
}

#[derive(Deserialize)]
struct LogsQuery {
    machine: Option<String>,
    region: Option<String>,
    tail: Option<u32>,
    follow: Option<String>,
}

const MAX_TAIL: u32 = 10_000;
/// Sent while nothing is said, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

async fn logs(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Query(query): Query<LogsQuery>,
) -> ApiResult<Response> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let follow = flag(query.follow.as_deref());
    let tail = query.tail.unwrap_or(100).min(MAX_TAIL);
    let mut nodes: Vec<_> = api
        .control
        .machine_records(&app.name, false)
        .await?
        .into_iter()
        .filter(|record| query.machine.as_ref().is_none_or(|wanted| *wanted == record.id.to_string()))
        .filter(|record| query.region.as_deref().is_none_or(|wanted| wanted == record.region.as_str()))
        .map(|record| record.node)
        .collect();
    nodes.sort();
    nodes.dedup();
    let (sender, receiver) = mpsc::channel::<LogRecord>(256);
    for node in nodes {
        let request = LogsRequest {
            machine: query.machine.clone().unwrap_or_default(),
            app: app.name.to_string(),
            after_ms: 0,
            tail,
            follow,
        };
        // A node that does not answer must not keep the others' lines.
        let Ok(mut worker) = api.control.directory.worker(&node) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            let mut lines = match worker.logs(request).await {
                Ok(reply) => reply.into_inner(),
                Err(status) => return tracing::info!(%node, %status, "a node gives no logs"),
            };
            while let Ok(Some(line)) = lines.message().await {
                if let Some(record) = record(line)
                    && sender.send(record).await.is_err()
                {
                    return;
                }
            }
        });
    }
    drop(sender);
    let body = if follow { follow_body(receiver) } else { sorted_body(receiver, tail).await };
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
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
async fn sorted_body(mut lines: mpsc::Receiver<LogRecord>, tail: u32) -> Body {
    let mut records = Vec::new();
    while let Some(record) = lines.recv().await {
        records.push(record);
    }
    records.sort_by_key(|record| record.timestamp_ms);
    let skip = records.len().saturating_sub(tail as usize);
    Body::from(records.iter().skip(skip).map(encode).collect::<Vec<_>>().concat())
}

fn follow_body(lines: mpsc::Receiver<LogRecord>) -> Body {
    let lines =
        ReceiverStream::new(lines).map(|record| encode(&record)).timeout_repeating(tokio::time::interval(KEEP_ALIVE));
    Body::from_stream(lines.map(|line| Ok::<_, Infallible>(line.unwrap_or_else(|_| Bytes::from_static(b"\n")))))
}
