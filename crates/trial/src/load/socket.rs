//! One WebSocket that stays open: a message each second must come back. When it breaks, that is one
//! failed shot, and the next one connects anew. A machine that says it is going away, in the protocol's
//! own words, has broken nothing: a socket ends with its machine at the latest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{LoadPlan, Shot, ShotKind, unix_ms};

const EVERY: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Greeting {
    machine: String,
    region: String,
    boot_id: String,
}

struct Open {
    socket: WebSocketStream<TcpStream>,
    greeting: Greeting,
    opened_ms: u64,
}

enum Talked {
    Echo,
    Goodbye,
}

pub async fn keep_talking(plan: Arc<LoadPlan>, shots: mpsc::Sender<Shot>) {
    let mut open: Option<Open> = None;
    let mut ticks = tokio::time::interval(EVERY);
    for number in 0_u64.. {
        ticks.tick().await;
        let mut shot = Shot::begun(ShotKind::Socket);
        let began = Instant::now();
        let outcome = tokio::time::timeout(plan.timeout, talk(&plan, &mut open, number, &mut shot.opened_ms)).await;
        shot.took_ms = began.elapsed().as_secs_f64() * 1000.0;
        let talked = match outcome {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!("the WebSocket was silent for {:?}", plan.timeout)),
        };
        let stays = matches!(talked, Ok(Talked::Echo));
        shot.error = talked.err().map(|error| format!("{error:#}"));
        if let Some(open) = &open {
            shot.machine = Some(open.greeting.machine.clone());
            shot.region = Some(open.greeting.region.clone());
            shot.boot_id = Some(open.greeting.boot_id.clone());
        }
        if !stays {
            open = None;
        }
        if shots.send(shot).await.is_err() {
            return;
        }
    }
}

/// `opened_ms`: when the connection was opened, said also when nothing comes of it.
async fn talk(
    plan: &LoadPlan,
    open: &mut Option<Open>,
    number: u64,
    opened_ms: &mut Option<u64>,
) -> anyhow::Result<Talked> {
    let open = match open {
        Some(open) => open,
        None => open.insert(connect(plan, opened_ms).await?),
    };
    *opened_ms = Some(open.opened_ms);
    let text = format!("message {number}");
    open.socket.send(Message::text(text.clone())).await.context("cannot send")?;
    loop {
        match open.socket.next().await.context("the WebSocket was closed")?? {
            Message::Text(echo) if echo.as_str() == text => return Ok(Talked::Echo),
            Message::Text(other) => bail!("sent {text:?}, got {other:?}"),
            Message::Close(Some(frame)) if frame.code == CloseCode::Away => return Ok(Talked::Goodbye),
            Message::Close(reason) => bail!("the WebSocket was closed: {reason:?}"),
            _ => {}
        }
    }
}

async fn connect(plan: &LoadPlan, opened: &mut Option<u64>) -> anyhow::Result<Open> {
    let tcp = super::open(plan.target, opened).await?;
    let opened_ms = opened.unwrap_or_else(unix_ms);
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{}/ws", plan.host), tcp).await?;
    let greeting = socket.next().await.context("no greeting")??;
    let greeting = serde_json::from_str(greeting.to_text()?).context("the greeting cannot be read")?;
    Ok(Open { socket, greeting, opened_ms })
}
