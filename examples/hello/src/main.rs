//! A small app to try the platform with: says who answers, and misbehaves on request.
//!
//! Knobs (environment): `PORT` (8080), `HELLO_RELEASE` (free text), `HELLO_START_DELAY_MS`,
//! `HELLO_EXIT_AT_START` (an exit code), `HELLO_NEVER_LISTEN=1`, `HELLO_CHECK_STATUS` (status of
//! `/healthz`, 200).

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Who answers: the same in every response of one run of one machine.
#[derive(Clone, Serialize)]
struct Who {
    machine: String,
    version: String,
    region: String,
    app: String,
    release: String,
    /// New for each start of the process.
    boot_id: String,
}

struct Hello {
    who: Who,
    served: AtomicU64,
    /// Requests to `/once` by their key: proves that a request was executed once.
    executed: tokio::sync::Mutex<std::collections::HashMap<String, u64>>,
    /// True once asked to stop; whoever talks holds a receiver.
    stopping: watch::Sender<bool>,
}

/// How long those who talk get to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn env_number<T: std::str::FromStr>(name: &str) -> Option<T> {
    env(name)?.parse().ok()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if let Some(code) = env_number::<u8>("HELLO_EXIT_AT_START") {
        eprintln!("hello: told to exit with {code}");
        return ExitCode::from(code);
    }
    tokio::time::sleep(Duration::from_millis(env_number("HELLO_START_DELAY_MS").unwrap_or(0))).await;
    if env("HELLO_NEVER_LISTEN").is_some() {
        eprintln!("hello: told never to listen");
        return std::future::pending().await;
    }
    let who = Who {
        machine: env("FLY_MACHINE_ID").unwrap_or_default(),
        version: env("FLY_MACHINE_VERSION").unwrap_or_default(),
        region: env("FLY_REGION").unwrap_or_default(),
        app: env("FLY_APP_NAME").unwrap_or_default(),
        release: env("HELLO_RELEASE").unwrap_or_default(),
        boot_id: format!("{:016x}", rand::random::<u64>()),
    };
    let hello = Arc::new(Hello {
        who,
        served: AtomicU64::new(0),
        executed: Default::default(),
        stopping: watch::Sender::new(false),
    });
    let app = Router::new()
        .route("/", get(answer).post(answer))
        .route("/healthz", get(healthz))
        .route("/headers", get(headers))
        .route("/echo", post(echo))
        .route("/once/{key}", post(once).get(executed))
        .route("/status/{code}", get(status))
        .route("/slow/{milliseconds}", get(slow))
        .route("/busy/{milliseconds}", get(busy))
        .route("/stream", get(stream))
        .route("/crash", post(crash))
        .route("/eat/{megabytes}", post(eat))
        .route("/secret/{name}", get(secret))
        .route("/ws", get(websocket))
        .with_state(hello.clone());
    let port: u16 = env_number("PORT").unwrap_or(8080);
    // Users come by IPv4, other machines by IPv6: this takes both.
    let listener = match tokio::net::TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("hello: cannot listen on port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("hello: {} listens on {port}, boot {}", hello.who.machine, hello.who.boot_id);
    let served = axum::serve(listener, app).with_graceful_shutdown(stop(hello.clone())).await;
    // Whoever does not close in time is cut off.
    tokio::time::timeout(GOODBYE, hello.stopping.closed()).await.ok();
    println!("hello: done");
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn stop(hello: Arc<Hello>) {
    asked_to_stop().await;
    hello.stopping.send_replace(true);
}

async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    who: Who,
    /// Requests answered since the start, this one included.
    counter: u64,
    received: u64,
}

async fn answer(State(hello): State<Arc<Hello>>, body: Body) -> Response {
    let mut received = 0;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => received += chunk.len() as u64,
            Err(_) => return StatusCode::BAD_REQUEST.into_response(),
        }
    }
    let counter = hello.served.fetch_add(1, Ordering::Relaxed) + 1;
    Json(Answer { who: hello.who.clone(), counter, received }).into_response()
}

async fn healthz() -> StatusCode {
    StatusCode::from_u16(env_number("HELLO_CHECK_STATUS").unwrap_or(200)).unwrap_or(StatusCode::OK)
}

/// The request's headers, as the machine sees them.
async fn headers(headers: HeaderMap) -> Json<Vec<(String, String)>> {
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Json(headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect())
}

/// The body, as it comes.
async fn echo(body: Body) -> Body {
    body
}

async fn once(State(hello): State<Arc<Hello>>, Path(key): Path<String>, body: Body) -> Response {
    *hello.executed.lock().await.entry(key.clone()).or_default() += 1;
    // On the log too, as it outlives the machine.
    println!("executed {key}");
    answer(State(hello), body).await
}

async fn executed(State(hello): State<Arc<Hello>>, Path(key): Path<String>) -> String {
    hello.executed.lock().await.get(&key).copied().unwrap_or(0).to_string()
}

async fn status(Path(code): Path<u16>) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST)
}

async fn slow(State(hello): State<Arc<Hello>>, Path(milliseconds): Path<u64>) -> Response {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    answer(State(hello), Body::empty()).await
}

/// Burns CPU.
async fn busy(State(hello): State<Arc<Hello>>, Path(milliseconds): Path<u64>) -> Response {
    let until = Instant::now() + Duration::from_millis(milliseconds.min(60_000));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    answer(State(hello), Body::empty()).await
}

#[derive(Deserialize)]
struct Pace {
    chunks: u64,
    every_ms: u64,
}

/// Sends numbered lines at a pace, to see that nothing on the way waits for the end.
async fn stream(Query(pace): Query<Pace>) -> Body {
    let lines = futures_util::stream::unfold(0, move |sent| async move {
        if sent == pace.chunks {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(pace.every_ms)).await;
        Some((Ok::<_, std::io::Error>(format!("line {sent}\n")), sent + 1))
    });
    Body::from_stream(lines)
}

async fn crash() -> StatusCode {
    eprintln!("hello: told to crash");
    std::process::exit(3)
}

/// Takes memory and keeps it.
async fn eat(Path(megabytes): Path<usize>) -> String {
    let eaten = vec![1_u8; megabytes << 20];
    let sum: u64 = eaten.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
    std::mem::forget(eaten);
    format!("{sum} pages\n")
}

async fn secret(Path(name): Path<String>) -> Response {
    env(&name).map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
}

async fn websocket(State(hello): State<Arc<Hello>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| talk(hello, socket))
}

/// Says who it is, then repeats what it hears; says goodbye when asked to stop.
async fn talk(hello: Arc<Hello>, mut socket: WebSocket) {
    let mut stopping = hello.stopping.subscribe();
    let greeting = serde_json::to_string(&hello.who).unwrap_or_default();
    if socket.send(Message::text(greeting)).await.is_err() {
        return;
    }
    loop {
        let message = tokio::select! {
            message = socket.recv() => message,
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
                let goodbye = CloseFrame { code: close_code::AWAY, reason: "stopping".into() };
                // A peer that has left needs none.
                socket.send(Message::Close(Some(goodbye))).await.ok();
                // The other side closes the connection, after it has read all of this.
                while let Some(Ok(_)) = socket.recv().await {}
                return;
            }
        };
        let alive = match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => socket.send(message).await.is_ok(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => true,
            Some(Ok(Message::Close(_)) | Err(_)) | None => false,
        };
        if !alive {
            return;
        }
    }
}
