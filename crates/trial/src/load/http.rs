//! One HTTP request, on a connection of its own or on a kept one.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use super::{LoadPlan, Shot, ShotKind, open, unix_ms};

const POST_BYTES: usize = 64 * 1024;

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    opened_ms: u64,
}

/// Idle connections, last used first.
#[derive(Default)]
pub struct KeptConnections(Mutex<Vec<Connection>>);

impl KeptConnections {
    fn take(&self) -> Option<Connection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection that the server closed while idle is no failure for anybody: clients see the
        // close before they send.
        idle.retain(|connection| !connection.sender.is_closed());
        idle.pop()
    }

    fn give_back(&self, connection: Connection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

/// What the example app answers.
#[derive(Deserialize)]
struct Answer {
    machine: String,
    region: String,
    release: String,
    boot_id: String,
    counter: u64,
    received: u64,
}

pub async fn shoot(plan: &LoadPlan, kept: &KeptConnections, kind: ShotKind) -> Shot {
    let mut shot = Shot::begun(kind);
    let began = Instant::now();
    let outcome = tokio::time::timeout(plan.timeout, attempt(plan, kept, kind, &mut shot)).await;
    shot.took_ms = began.elapsed().as_secs_f64() * 1000.0;
    shot.error = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(_) => Some(format!("no answer within {:?}", plan.timeout)),
    };
    shot
}

async fn attempt(plan: &LoadPlan, kept: &KeptConnections, kind: ShotKind, shot: &mut Shot) -> anyhow::Result<()> {
    let keep = matches!(kind, ShotKind::GetKept | ShotKind::PostKept);
    let mut connection = match keep.then(|| kept.take()).flatten() {
        Some(connection) => connection,
        None => connect(plan, &mut shot.opened_ms).await?,
    };
    shot.opened_ms = Some(connection.opened_ms);
    let post = matches!(kind, ShotKind::PostNew | ShotKind::PostKept);
    let body = if post { Bytes::from_static(&[b'x'; POST_BYTES]) } else { Bytes::new() };
    let sent = body.len() as u64;
    let request = Request::builder()
        .method(if post { Method::POST } else { Method::GET })
        .uri("/")
        .header(header::HOST, &plan.host)
        .header(header::CONNECTION, if keep { "keep-alive" } else { "close" })
        .body(Full::new(body))?;
    connection.sender.ready().await?;
    let response = connection.sender.send_request(request).await?;
    let status = response.status();
    // `<ULID>-<region of the edge>`
    let edge = response.headers().get("fly-request-id").and_then(|id| id.to_str().ok());
    shot.edge = edge.and_then(|id| id.rsplit_once('-')).map(|(_, region)| region.to_owned());
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        anyhow::bail!("status {status}: {}", String::from_utf8_lossy(&body).chars().take(200).collect::<String>());
    }
    let answer: Answer = serde_json::from_slice(&body)?;
    if answer.received != sent {
        anyhow::bail!("the machine received {} of {sent} bytes", answer.received);
    }
    shot.machine = Some(answer.machine);
    shot.region = Some(answer.region);
    shot.release = Some(answer.release);
    shot.boot_id = Some(answer.boot_id);
    shot.counter = Some(answer.counter);
    if keep && !connection.sender.is_closed() {
        kept.give_back(connection);
    }
    Ok(())
}

async fn connect(plan: &LoadPlan, opened: &mut Option<u64>) -> anyhow::Result<Connection> {
    let tcp = open(plan.target, opened).await?;
    let opened_ms = opened.unwrap_or_else(unix_ms);
    tcp.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(tcp)).await?;
    // Ends with the connection; its errors come out of the request too.
    tokio::spawn(connection);
    Ok(Connection { sender, opened_ms })
}
