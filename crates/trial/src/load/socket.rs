//! One WebSocket that stays open: a message each second must come back. When it breaks, that is one
//! failed shot, and the next one connects anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{LoadPlan, Shot, ShotKind};

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
}

pub async fn keep_talking(plan: Arc<LoadPlan>, start: Instant, shots: mpsc::Sender<Shot>) {
    let mut open: Option<Open> = None;
    let mut ticks = tokio::time::interval(EVERY);
    for number in 0_u64.. {
        ticks.tick().await;
        let mut shot = Shot::begun(ShotKind::Socket, start);
        let began = Instant::now();
        let outcome = tokio::time::timeout(plan.timeout, talk(&plan, &mut open, number)).await;
        shot.took_ms = began.elapsed().as_secs_f64() * 1000.0;
        shot.error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("the WebSocket was silent for {:?}", plan.timeout)),
        };
        if shot.error.is_some() {
            open = None;
        }
        if let Some(open) = &open {
            shot.machine = Some(open.greeting.machine.clone());
            shot.region = Some(open.greeting.region.clone());
            shot.boot_id = Some(open.greeting.boot_id.clone());
        }
        if shots.send(shot).await.is_err() {
            return;
        }
    }
}

async fn talk(plan: &LoadPlan, open: &mut Option<Open>, number: u64) -> anyhow::Result<()> {
    let open = match open {
        Some(open) => open,
        None => open.insert(connect(plan).await?),
    };
    let text = format!("message {number}");
    open.socket.send(Message::text(text.clone())).await.context("cannot send")?;
    loop {
        match open.socket.next().await.context("the WebSocket was closed")?? {
            Message::Text(echo) if echo.as_str() == text => return Ok(()),
            Message::Text(other) => bail!("sent {text:?}, got {other:?}"),
            Message::Close(reason) => bail!("the WebSocket was closed: {reason:?}"),
            _ => {}
        }
    }
}

async fn connect(plan: &LoadPlan) -> anyhow::Result<Open> {
    let tcp = TcpStream::connect(plan.target).await?;
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{}/ws", plan.host), tcp).await?;
    let greeting = socket.next().await.context("no greeting")??;
    let greeting = serde_json::from_str(greeting.to_text()?).context("the greeting cannot be read")?;
    Ok(Open { socket, greeting })
}
