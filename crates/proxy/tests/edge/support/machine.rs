//! Machines: HTTP servers on loopback that say who they are and can be killed.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub type Answer = Response<BoxBody<Bytes, Infallible>>;
type Handler = dyn Fn(Arc<Running>, Request<Incoming>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync;

/// What a machine runs.
#[derive(Clone)]
pub struct App(Arc<Handler>);

/// Facts of a running machine that its handler may use.
pub struct Running {
    pub name: String,
    pub requests: AtomicU64,
    pub open: AtomicU64,
    pub most_open: AtomicU64,
    pub seen: Mutex<Vec<String>>,
}

/// One machine: an address that is its own for life, running or not.
pub struct Machine {
    pub address: Ipv4Addr,
    pub port: u16,
    pub facts: Arc<Running>,
    app: App,
    alive: Mutex<Option<CancellationToken>>,
    connections: Arc<Mutex<CancellationToken>>,
}

pub fn full(text: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(text.into()).boxed()
}

impl App {
    pub fn new<F>(handler: impl Fn(Arc<Running>, Request<Incoming>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self(Arc::new(move |facts, request| Box::pin(handler(facts, request))))
    }

    /// Says its name; with a body, says its length too.
    pub fn hello() -> Self {
        Self::new(|facts, request| async move {
            let length = request.into_body().collect().await.map(|body| body.to_bytes().len()).unwrap_or(0);
            Response::new(full(format!("{} {length}", facts.name)))
        })
    }

    /// Answers after `pause`.
    pub fn slow(pause: Duration) -> Self {
        Self::new(move |facts, _| async move {
            tokio::time::sleep(pause).await;
            Response::new(full(facts.name.clone()))
        })
    }

    /// Answers with the request's head, one header a line.
    pub fn mirror() -> Self {
        Self::new(|_, request| async move {
            let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
            let mut lines: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
                .collect();
            lines.sort();
            text.push_str(&lines.join("\n"));
            Response::new(full(text))
        })
    }

    /// Sends back each piece of the body as it comes, trailers included.
    pub fn echo() -> Self {
        Self::new(|_, request| async move {
            let trailer = request.headers().get("trailer").cloned();
            let mut response = Response::new(());
            if let Some(trailer) = trailer {
                response.headers_mut().insert("trailer", trailer);
            }
            response.map(|()| request.into_body().map_err(|error| panic!("the echo's request broke: {error}")).boxed())
        })
    }

    /// Sends a piece every time the returned sender is used.
    pub fn drip() -> (Self, tokio::sync::broadcast::Sender<Bytes>) {
        let (sender, _) = tokio::sync::broadcast::channel::<Bytes>(16);
        let pieces = sender.clone();
        let app = Self::new(move |_, _| {
            let receiver = pieces.subscribe();
            async move {
                let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
                    let piece = receiver.recv().await.ok().filter(|piece| !piece.is_empty())?;
                    Some((Ok(Frame::data(piece)), receiver))
                });
                Response::new(StreamBody::new(stream).boxed())
            }
        });
        (app, sender)
    }

    /// Accepts WebSockets and sends every message back.
    pub fn websocket_echo() -> Self {
        Self::new(|_, mut request| async move {
            use futures_util::{SinkExt, StreamExt};
            let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
                return Response::builder().status(400).body(full("no websocket")).unwrap();
            };
            let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let Ok(upgraded) = upgrade.await else { return };
                let role = tokio_tungstenite::tungstenite::protocol::Role::Server;
                let mut socket =
                    tokio_tungstenite::WebSocketStream::from_raw_socket(TokioIo::new(upgraded), role, None).await;
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close() || socket.send(message).await.is_err() {
                        break;
                    }
                }
            });
            Response::builder()
                .status(101)
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-accept", accept)
                .body(full(""))
                .unwrap()
        })
    }
}

impl Machine {
    /// A machine that does not run yet.
    pub async fn stopped(name: &str, app: App) -> Arc<Self> {
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let facts = Running {
            name: name.to_owned(),
            requests: AtomicU64::new(0),
            open: AtomicU64::new(0),
            most_open: AtomicU64::new(0),
            seen: Mutex::default(),
        };
        let (address, alive, connections) = (Ipv4Addr::LOCALHOST, Mutex::default(), Arc::default());
        Arc::new(Self { address, port, facts: Arc::new(facts), app, alive, connections })
    }

    pub async fn started(name: &str, app: App) -> Arc<Self> {
        let machine = Self::stopped(name, app).await;
        machine.start().await;
        machine
    }

    pub fn is_running(&self) -> bool {
        self.alive.lock().unwrap().is_some()
    }

    pub fn requests(&self) -> u64 {
        self.facts.requests.load(Ordering::SeqCst)
    }

    pub async fn start(&self) {
        if self.is_running() {
            return;
        }
        let listener = loop {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            match socket.bind((self.address, self.port).into()) {
                Ok(()) => break socket.listen(1024).unwrap(),
                // Killed just before: its socket is not closed yet.
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let alive = CancellationToken::new();
        *self.alive.lock().unwrap() = Some(alive.clone());
        let (facts, app, connections) = (self.facts.clone(), self.app.clone(), self.connections.clone());
        tokio::spawn(alive.clone().run_until_cancelled_owned(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let unbroken = connections.lock().unwrap().clone();
                let serving = unbroken.run_until_cancelled_owned(serve(stream, facts.clone(), app.clone()));
                tokio::spawn(alive.clone().run_until_cancelled_owned(serving));
            }
        }));
    }

    /// Breaks the connections that are open; new ones are taken all the while.
    pub fn break_connections(&self) {
        std::mem::take(&mut *self.connections.lock().unwrap()).cancel();
    }

    /// Kills it: connections break where they are.
    pub fn kill(&self) {
        if let Some(alive) = self.alive.lock().unwrap().take() {
            alive.cancel();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(stream: tokio::net::TcpStream, facts: Arc<Running>, app: App) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (facts, app) = (facts.clone(), app.clone());
        async move {
            facts.requests.fetch_add(1, Ordering::SeqCst);
            let open = facts.open.fetch_add(1, Ordering::SeqCst) + 1;
            facts.most_open.fetch_max(open, Ordering::SeqCst);
            let answer = (app.0)(facts.clone(), request).await;
            facts.open.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, Infallible>(answer)
        }
    });
    // A broken connection is the other side's business.
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    drop(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
}
