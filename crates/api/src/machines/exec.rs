//! `POST …/exec`: one command, its whole output, its code. For terminals see the console.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use atoll_control::{ControlError, Kind};
use atoll_identity::Action;
use atoll_rpc::proto::worker::exec_frame::Frame;
use atoll_rpc::proto::worker::{ExecFrame, ExecStart};

use crate::Api;
use crate::auth::{Auth, machine_id};
use crate::body::Body;
use crate::error::{ApiError, ApiResult};

/// The platform's own limit on a call, in seconds.
const MAX_SECONDS: u64 = 60;
/// Output kept of each stream; more is cut, as the answer is one JSON document.
const MAX_OUTPUT: usize = 1 << 20;

#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
#[schema(as = MachineExecRequest)]
pub struct ExecBody {
    command: Vec<String>,
    /// Deprecated: one text, split as a shell would.
    cmd: Option<String>,
    stdin: Option<String>,
    /// Seconds, 60 at most.
    timeout: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ExecResponse)]
pub struct Executed {
    exit_code: i32,
    /// Absent if the command ended by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_signal: Option<i32>,
    stdout: String,
    stderr: String,
}

pub async fn exec(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): Path<(String, String)>,
    Body(body): Body<ExecBody>,
) -> ApiResult<Json<Executed>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let id = machine_id(&id)?;
    let command = match body.cmd {
        Some(cmd) if body.command.is_empty() => vec!["/bin/sh".into(), "-c".into(), cmd],
        _ => body.command,
    };
    if command.is_empty() {
        return Err(ApiError::invalid("invalid_argument: command is required"));
    }
    let record = api.control.machine_record(&app.name, id).await?;
    let start = ExecStart { machine: id.to_string(), command, ..ExecStart::default() };
    let mut frames = vec![Frame::Start(start)];
    frames.extend(body.stdin.map(|text| Frame::Stdin(text.into_bytes().into())));
    frames.push(Frame::CloseStdin(true));
    // The sending side stays open: closing it would end the command.
    let input = tokio_stream::iter(frames.into_iter().map(|frame| ExecFrame { frame: Some(frame) }))
        .chain(futures_util::stream::pending());
    let seconds = body.timeout.filter(|timeout| *timeout > 0).unwrap_or(MAX_SECONDS).min(MAX_SECONDS);
    let mut worker = api.control.directory.worker(&record.node)?;
    let run = async {
        let mut output = worker.exec(input).await?.into_inner();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(frame) = output.message().await? {
            match frame.frame {
                Some(Frame::Stdout(bytes)) => keep(&mut stdout, &bytes),
                Some(Frame::Stderr(bytes)) => keep(&mut stderr, &bytes),
                Some(Frame::Exit(exit)) => return Ok((exit, stdout, stderr)),
                _ => {}
            }
        }
        Err(ControlError::unavailable("the command's connection broke"))
    };
    let ended = tokio::time::timeout(Duration::from_secs(seconds), run).await;
    let timed_out =
        || ControlError::new(Kind::TimedOut, format!("deadline_exceeded: the command took longer than {seconds} s"));
    let (exit, stdout, stderr) = ended.map_err(|_| timed_out())??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Json(Executed {
        exit_code: exit.code,
        exit_signal: (exit.signal != 0).then_some(exit.signal),
        stdout: text(&stdout),
        stderr: text(&stderr),
    }))
}

fn keep(output: &mut Vec<u8>, more: &[u8]) {
    let room = MAX_OUTPUT.saturating_sub(output.len());
    output.extend_from_slice(&more[..more.len().min(room)]);
}
