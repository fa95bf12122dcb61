//! One client connection: which HTTP version it speaks, with or without TLS, and how it ends.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use atoll_model::AppName;
use atoll_model::service::{Handler, Port};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use super::certificates::Certificates;
use super::pace::{Pace, Paced, Streams};
use super::request::{Entrance, find_app, find_port, handle};
use super::stall::Stall;
use super::tcp;
use crate::core::{Core, Shutdown};
use crate::departure::Stage;
use crate::headers::HostError;

const H2: &[u8] = b"h2";
/// How every HTTP/2 connection begins; HTTP/1 has no method `PRI`.
const H2_PREFACE_START: &[u8] = b"PRI ";

/// Serves a plain HTTP connection to the service port `external_port`.
pub(crate) async fn serve_http(core: Arc<Core>, stream: TcpStream, peer: SocketAddr, external_port: u16) {
    if let Some(entrance) = entrance(&stream, peer, external_port) {
        plain_http(core, stream, entrance).await;
    }
}

/// Ends TLS and serves what is inside: HTTP, or whatever the app wants on that port.
pub(crate) async fn serve_https(
    core: Arc<Core>,
    stream: TcpStream,
    peer: SocketAddr,
    external_port: u16,
    certificates: Arc<Certificates>,
) {
    if let Some(entrance) = entrance(&stream, peer, external_port) {
        with_tls(core, stream, entrance, &certificates).await;
    }
}

/// Serves a connection to an address that belongs to one app, in the way its port is to be handled.
/// Without such an app or port the connection is closed.
pub(crate) async fn serve_tcp(
    core: Arc<Core>,
    stream: TcpStream,
    peer: SocketAddr,
    external_port: u16,
    certificates: Arc<Certificates>,
) {
    let Some(entrance) = entrance(&stream, peer, external_port) else { return };
    let snapshot = core.edge.surroundings.routes.snapshot();
    let Some(app) = snapshot.app_by_address(entrance.local.ip()).map(|app| app.name.clone()) else { return };
    let Some(port) = find_port(&snapshot, &app, external_port).cloned() else { return };
    // Not held while the connection lives.
    drop(snapshot);
    serve_port(core, stream, entrance, app, port, &certificates).await;
}

/// Serves a connection to an app in the way that the port wants it handled.
pub(super) async fn serve_port(
    core: Arc<Core>,
    mut stream: TcpStream,
    entrance: Entrance,
    app: AppName,
    port: Port,
    certificates: &Certificates,
) {
    if port.has(Handler::PgTls) {
        let beginning = tcp::accept_postgres_tls(&mut stream);
        let limit = core.edge.config.timeouts.handshake;
        if tokio::time::timeout(limit, beginning).await == Ok(true) {
            with_tls(core, stream, entrance, certificates).await;
        }
    } else if port.has(Handler::Tls) {
        with_tls(core, stream, entrance, certificates).await;
    } else if port.has(Handler::Http) {
        plain_http(core, stream, entrance).await;
    } else {
        tcp::pass(&core, stream, app, &entrance, &port).await;
    }
}

fn entrance(stream: &TcpStream, peer: SocketAddr, external_port: u16) -> Option<Entrance> {
    // Without a local address the peer has gone already.
    let local = stream.local_addr().ok()?;
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Some(Entrance { peer: canonical(peer), local: canonical(local), tls: false, private: false, external_port })
}

async fn plain_http(core: Arc<Core>, stream: TcpStream, entrance: Entrance) {
    let mut start = [0; H2_PREFACE_START.len()];
    let first = tokio::time::timeout(core.edge.config.timeouts.header_read, stream.peek(&mut start)).await;
    // An end, an error or silence before the first byte: nothing to answer.
    let Ok(Ok(length @ 1..)) = first else { return };
    if start[..length] == *H2_PREFACE_START {
        serve_h2(core, stream, entrance).await;
    } else {
        serve_h1(core, stream, entrance).await;
    }
}

async fn with_tls(core: Arc<Core>, stream: TcpStream, entrance: Entrance, certificates: &Certificates) {
    let entrance = Entrance { tls: true, ..entrance };
    let handshake = async {
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let raw = raw_service(&core, &entrance, hello.client_hello().server_name());
        let config = match &raw {
            None => certificates.for_http(),
            Some((_, port)) => certificates.for_raw(port),
        };
        Ok((hello.into_stream(config).await?, raw))
    };
    let outcome: Result<Result<_, std::io::Error>, _> =
        tokio::time::timeout(core.edge.config.timeouts.handshake, handshake).await;
    let (stream, raw) = match outcome {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => {
            core.edge.counters.tls_failures.one();
            tracing::debug!(client = %entrance.peer, %error, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            core.edge.counters.tls_failures.one();
            return;
        }
    };
    if let Some((app, port)) = raw {
        tcp::pass(&core, stream, app, &entrance, &port).await;
    } else if stream.get_ref().1.alpn_protocol() == Some(H2) {
        serve_h2(core, stream, entrance).await;
    } else {
        serve_h1(core, stream, entrance).await;
    }
}

/// The app and its port, when what is inside TLS is not HTTP.
fn raw_service(core: &Core, entrance: &Entrance, server_name: Option<&str>) -> Option<(AppName, Port)> {
    let snapshot = core.edge.surroundings.routes.snapshot();
    let host = server_name.map(str::to_ascii_lowercase);
    // An unknown name has no certificate either: the handshake says so.
    let app = find_app(&core.edge, &snapshot, entrance, host.as_deref().ok_or(HostError::Missing)).ok()?;
    let port = find_port(&snapshot, &app, entrance.external_port)?;
    (!port.has(Handler::Http)).then(|| (app, port.clone()))
}

async fn serve_h1(core: Arc<Core>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, entrance: Entrance) {
    let config = &core.edge.config;
    let stream = Stall::new(stream, config.timeouts.client_write);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.timeouts.header_read)
        .max_header_size(config.limits.header_bytes)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| handle(core.clone(), entrance.clone(), request, None)),
        )
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let Shutdown { close_idle, end, .. } = &core.edge.shutdown;
    let closes_idle = async {
        tokio::select! {
            () = close_idle.cancelled() => {}
            () = core.edge.departure.reaches(Stage::ClosesIdle) => {}
        }
    };
    let result = tokio::select! {
        result = &mut connection => result,
        () = closes_idle => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = &mut connection => result,
                () = end.cancelled() => Ok(()),
            }
        }
    };
    log_end(result);
}

async fn serve_h2(core: Arc<Core>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, entrance: Entrance) {
    let (limits, timeouts) = (&core.edge.config.limits, &core.edge.config.timeouts);
    let stream = Stall::new(stream, timeouts.client_write);
    let serve = |request| {
        let (core, entrance) = (core.clone(), entrance.clone());
        async move {
            let pace = Pace::current();
            let response = handle(core, entrance, request, pace.clone()).await?;
            Ok::<_, Infallible>(response.map(|body| Paced::new(body, pace)))
        }
    };
    let connection = http2::Builder::new(Streams(core.clone()))
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.h2_streams)
        .keep_alive_interval(timeouts.client_ping)
        .keep_alive_timeout(timeouts.client_pong)
        .serve_connection(TokioIo::new(stream), service_fn(serve));
    let mut connection = std::pin::pin!(connection);
    let Shutdown { drain, end, .. } = &core.edge.shutdown;
    let opens_no_more = async {
        tokio::select! {
            () = drain.cancelled() => {}
            () = core.edge.departure.reaches(Stage::Leaves) => {}
        }
    };
    let result = tokio::select! {
        result = &mut connection => result,
        // HTTP/2 tells the client to open no more streams; unlike in HTTP/1 no request can be lost.
        () = opens_no_more => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = &mut connection => result,
                () = end.cancelled() => Ok(()),
            }
        }
    };
    log_end(result);
}

fn log_end(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection broke");
    }
}
