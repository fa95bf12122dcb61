//! `GET /api/v1/apps/{app}/machines/{id}/console`: a terminal in a machine over a WebSocket. Text
//! frames steer ([`ConsoleControl`]), binary frames are the terminal's bytes.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use atoll_identity::Action;
use atoll_model::wire::ConsoleControl;
use atoll_rpc::proto::worker::exec_frame::Frame;
use atoll_rpc::proto::worker::worker_client::WorkerClient;
use atoll_rpc::proto::worker::{ExecFrame, ExecStart, Resize};

use crate::Api;
use crate::answer::Upgraded;
use crate::auth::{Auth, machine_id};
use crate::describe::{Operation, Part, Routes};
use crate::error::ApiResult;

pub fn routes() -> Routes {
    let path = "/api/v1/apps/{app_name}/machines/{machine_id}/console";
    // Whoever has a shell can change what is in the machine.
    Routes::default().get(path, "console", "A terminal in a machine, over a WebSocket", console).audited()
}

/// The handshake has no more to say than its status.
impl Part for WebSocketUpgrade {
    fn describe(_: &mut Operation) {}
}

async fn console(
    State(api): State<Api>,
    auth: Auth,
    Path((app, id)): Path<(String, String)>,
    upgrade: WebSocketUpgrade,
) -> ApiResult<Upgraded> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let id = machine_id(&id)?;
    let record = api.control.machine_record(&app.name, id).await?;
    let worker = api.control.directory.worker(&record.node)?;
    Ok(Upgraded(upgrade.on_upgrade(move |socket| async move {
        let (mut sink, mut client) = socket.split();
        let last = match talk(&mut sink, &mut client, worker, id.to_string()).await {
            Ok(Some(code)) => ConsoleControl::Exit { code },
            // Whoever sat at the terminal is gone, and needs no answer.
            Ok(None) => return,
            Err(error) => ConsoleControl::Error { error },
        };
        close(&mut sink, &mut client, &last).await;
    })))
}

type ToClient = SplitSink<WebSocket, Message>;
type FromClient = SplitStream<WebSocket>;

/// How long a client has to close after the last word.
const FAREWELL: Duration = Duration::from_secs(10);

/// Says the last word and waits until the client has gone: a socket that is closed with bytes unread resets the
/// connection, and what the client has not read by then, the last word too, is lost to it.
async fn close(sink: &mut ToClient, client: &mut FromClient, last: &ConsoleControl) {
    let farewell = async {
        let text = serde_json::to_string(last).unwrap_or_default();
        if sink.send(Message::text(text)).await.is_ok() && sink.send(Message::Close(None)).await.is_ok() {
            while let Some(Ok(_)) = client.next().await {}
        }
    };
    // A client that stays longer is left.
    tokio::time::timeout(FAREWELL, farewell).await.ok();
}

/// Carries both directions until the command has ended, with its exit code, or the client is gone. Neither waits for
/// the other: a command that does not read its input may have much to say.
async fn talk(
    sink: &mut ToClient,
    client: &mut FromClient,
    mut worker: WorkerClient<tonic::transport::Channel>,
    machine: String,
) -> Result<Option<i32>, String> {
    let Some(Ok(Message::Text(first))) = client.next().await else {
        return Err("the first frame must say what to start".into());
    };
    let Ok(ConsoleControl::Start { command, tty, rows, columns }) = serde_json::from_str(&first) else {
        return Err("the first frame must say what to start".into());
    };
    let start = ExecStart { machine, command, tty, rows: rows.into(), columns: columns.into(), ..ExecStart::default() };
    let (input, frames) = mpsc::channel(32);
    if input.send(ExecFrame { frame: Some(Frame::Start(start)) }).await.is_err() {
        return Err("the command is gone".into());
    }
    let output =
        worker.exec(ReceiverStream::new(frames)).await.map_err(|status| status.message().to_owned())?.into_inner();
    // Dropping both ends the command when the client is gone.
    tokio::select! {
        ended = tell(sink, output) => ended,
        () = hear(client, input) => Ok(None),
    }
}

/// Brings what the command says to the client, until it has ended.
async fn tell(sink: &mut ToClient, mut output: Streaming<ExecFrame>) -> Result<Option<i32>, String> {
    loop {
        let said = output.message().await.map_err(|status| status.message().to_owned())?;
        match said.and_then(|frame| frame.frame) {
            Some(Frame::Stdout(bytes) | Frame::Stderr(bytes)) => {
                if sink.send(Message::Binary(bytes)).await.is_err() {
                    return Ok(None);
                }
            }
            Some(Frame::Exit(exit)) => return Ok(Some(exit.code)),
            Some(_) => {}
            None => return Err("the machine ended".into()),
        }
    }
}

/// Brings what the client says to the command, until the client is gone.
async fn hear(client: &mut FromClient, input: mpsc::Sender<ExecFrame>) {
    while let Some(Ok(message)) = client.next().await {
        let frame = match message {
            Message::Binary(bytes) => Frame::Stdin(bytes),
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(ConsoleControl::Resize { rows, columns }) => {
                    Frame::Resize(Resize { rows: rows.into(), columns: columns.into() })
                }
                Ok(ConsoleControl::Signal { signal }) => Frame::Signal(signal),
                Ok(ConsoleControl::CloseStdin) => Frame::CloseStdin(true),
                // Frames of a newer client.
                _ => continue,
            },
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        // A command that has ended hears nothing more; how it ended is told by its output.
        input.send(ExecFrame { frame: Some(frame) }).await.ok();
    }
}
