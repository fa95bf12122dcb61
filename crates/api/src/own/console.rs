//! `GET /api/v1/apps/{app}/machines/{id}/console`: a terminal in a machine over a WebSocket. Text
//! frames steer ([`ConsoleControl`]), binary frames are the terminal's bytes.

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

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
        let mut socket = socket;
        if let Err(error) = talk(&mut socket, worker, id.to_string()).await {
            send(&mut socket, &ConsoleControl::Error { error }).await;
        }
    })))
}

/// The reader that went away needs no answer.
async fn send(socket: &mut WebSocket, control: &ConsoleControl) {
    if let Ok(text) = serde_json::to_string(control) {
        socket.send(Message::text(text)).await.ok();
    }
}

async fn talk(
    socket: &mut WebSocket,
    mut worker: WorkerClient<tonic::transport::Channel>,
    machine: String,
) -> Result<(), String> {
    let Some(Ok(Message::Text(first))) = socket.next().await else {
        return Err("the first frame must say what to start".into());
    };
    let Ok(ConsoleControl::Start { command, tty, rows, columns }) = serde_json::from_str(&first) else {
        return Err("the first frame must say what to start".into());
    };
    let start = ExecStart { machine, command, tty, rows: rows.into(), columns: columns.into(), ..ExecStart::default() };
    let (input, frames) = mpsc::channel(32);
    let say = |frame: Frame| {
        let input = input.clone();
        async move { input.send(ExecFrame { frame: Some(frame) }).await.map_err(|_| "the command is gone".to_owned()) }
    };
    say(Frame::Start(start)).await?;
    let mut output =
        worker.exec(ReceiverStream::new(frames)).await.map_err(|status| status.message().to_owned())?.into_inner();
    loop {
        tokio::select! {
            said = output.message() => match said.map_err(|status| status.message().to_owned())?.and_then(|frame| frame.frame) {
                Some(Frame::Stdout(bytes) | Frame::Stderr(bytes)) => {
                    if socket.send(Message::Binary(bytes)).await.is_err() {
                        return Ok(());
                    }
                }
                Some(Frame::Exit(exit)) => {
                    send(socket, &ConsoleControl::Exit { code: exit.code }).await;
                    return Ok(());
                }
                Some(_) => {}
                None => return Err("the machine ended".into()),
            },
            heard = socket.next() => match heard {
                Some(Ok(Message::Binary(bytes))) => say(Frame::Stdin(bytes)).await?,
                Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                    Ok(ConsoleControl::Resize { rows, columns }) => {
                        say(Frame::Resize(Resize { rows: rows.into(), columns: columns.into() })).await?;
                    }
                    Ok(ConsoleControl::Signal { signal }) => say(Frame::Signal(signal)).await?,
                    Ok(ConsoleControl::CloseStdin) => say(Frame::CloseStdin(true)).await?,
                    // Frames of a newer client.
                    _ => {}
                },
                // Whoever sat at the terminal is gone: dropping the stream ends the command.
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => {}
            },
        }
    }
}
