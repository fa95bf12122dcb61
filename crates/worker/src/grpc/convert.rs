//! Fields of messages as values, with errors that name the field.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;

use atoll_driver::{ExecInput, ExecOutput};
use atoll_model::MachineState;
use atoll_rpc::proto::worker::{ExecExit, ExecFrame, exec_frame};

use crate::calls::WaitFor;

pub fn parse<T: FromStr>(field: &'static str, text: &str) -> Result<T, Status>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

/// `None` when the field is empty.
pub fn parse_optional<T: FromStr>(field: &'static str, text: &str) -> Result<Option<T>, Status>
where
    T::Err: std::fmt::Display,
{
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

pub fn from_json<T: DeserializeOwned>(field: &'static str, body: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(body).map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

pub fn to_json(value: &impl Serialize) -> Result<Bytes, Status> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Status::internal(format!("cannot encode the answer: {error}")))
}

/// Milliseconds; 0 is absent.
pub fn optional_ms(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// Time to wait when the caller names none.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// What to wait for; `settled` among the states is a class of states.
pub fn wait_for(request: &atoll_rpc::proto::worker::WaitRequest) -> Result<WaitFor, Status> {
    let mut states = Vec::new();
    let mut settled = false;
    for name in &request.states {
        if name == "settled" {
            settled = true;
            continue;
        }
        let state: MachineState = serde_json::from_value(serde_json::Value::String(name.clone()))
            .map_err(|_| Status::invalid_argument(format!("state: {name:?} is no machine state")))?;
        states.push(state);
    }
    if states.is_empty() && !settled {
        states.push(MachineState::Started);
    }
    Ok(WaitFor {
        states,
        settled,
        version: parse_optional("version", &request.version)?,
        from_event: parse_optional("from_event", &request.from_event)?,
        timeout: optional_ms(request.timeout_ms).unwrap_or(DEFAULT_WAIT),
    })
}

/// What a caller sends into a running command; `None` for frames that mean nothing there.
pub fn exec_input(frame: ExecFrame) -> Option<ExecInput> {
    match frame.frame? {
        exec_frame::Frame::Stdin(bytes) => Some(ExecInput::Stdin(bytes.into())),
        exec_frame::Frame::CloseStdin(_) => Some(ExecInput::CloseStdin),
        exec_frame::Frame::Resize(size) => {
            Some(ExecInput::Resize { rows: clamp(size.rows), columns: clamp(size.columns) })
        }
        exec_frame::Frame::Signal(signal) => Some(ExecInput::Signal(signal)),
        exec_frame::Frame::Start(_)
        | exec_frame::Frame::Stdout(_)
        | exec_frame::Frame::Stderr(_)
        | exec_frame::Frame::Exit(_) => None,
    }
}

pub fn exec_output(output: ExecOutput) -> ExecFrame {
    let frame = match output {
        ExecOutput::Stdout(bytes) => exec_frame::Frame::Stdout(bytes.into()),
        ExecOutput::Stderr(bytes) => exec_frame::Frame::Stderr(bytes.into()),
        ExecOutput::Exit { code, signal } => exec_frame::Frame::Exit(ExecExit { code, signal: signal.unwrap_or(0) }),
    };
    ExecFrame { frame: Some(frame) }
}

/// A terminal has no more than 65535 rows or columns.
pub fn clamp(size: u32) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}
