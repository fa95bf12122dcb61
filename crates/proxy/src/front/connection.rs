//! One client connection: which HTTP version it speaks, with or without TLS, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

use super::certificates::Certificates;
use super::request::{Entrance, handle};
use crate::core::{Core, Shutdown};
use crate::headers::Facts;

const H2: &[u8] = b"h2";
/// How every HTTP/2 connection begins; HTTP/1 has no method `PRI`.
const H2_PREFACE_START: &[u8] = b"PRI ";

/// Serves a plain connection to the port `external_port`.
pub(crate) async fn serve_http(core: Arc<Core>, stream: TcpStream, peer: SocketAddr, external_port: u16) {
    let Some(entrance) = entrance(&stream, peer, external_port, false) else { return };
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

/// Ends TLS and serves what is inside.
pub(crate) async fn serve_https(
    core: Arc<Core>,
    stream: TcpStream,
    peer: SocketAddr,
    external_port: u16,
    certificates: Arc<Certificates>,
) {
    let Some(entrance) = entrance(&stream, peer, external_port, true) else { return };
    let handshake = async {
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        hello.into_stream(certificates.server_config()).await
    };
    let stream = match tokio::time::timeout(core.edge.config.timeouts.handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            core.edge.counters.tls_failures.one();
            tracing::debug!(client = %entrance.facts.client, %error, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            core.edge.counters.tls_failures.one();
            return;
        }
    };
    if stream.get_ref().1.alpn_protocol() == Some(H2) {
        serve_h2(core, stream, entrance).await;
    } else {
        serve_h1(core, stream, entrance).await;
    }
}

fn entrance(stream: &TcpStream, peer: SocketAddr, external_port: u16, tls: bool) -> Option<Entrance> {
    // Without a local address the peer has gone already.
    let local = stream.local_addr().ok()?;
    let facts = Facts { client: peer.ip().to_canonical(), entered: local.ip().to_canonical(), port: local.port(), tls };
    Some(Entrance { facts, external_port })
}

async fn serve_h1(core: Arc<Core>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, entrance: Entrance) {
    let config = &core.edge.config;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.timeouts.header_read)
        .max_header_size(config.limits.header_bytes)
        .max_headers(config.limits.header_count)
        .serve_connection(TokioIo::new(stream), service_fn(|request| handle(core.clone(), entrance.clone(), request)))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let Shutdown { close_idle, end, .. } = &core.edge.shutdown;
    let result = tokio::select! {
        result = &mut connection => result,
        () = close_idle.cancelled() => {
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
    let limits = &core.edge.config.limits;
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.h2_streams)
        .serve_connection(TokioIo::new(stream), service_fn(|request| handle(core.clone(), entrance.clone(), request)));
    let mut connection = std::pin::pin!(connection);
    let Shutdown { drain, end, .. } = &core.edge.shutdown;
    let result = tokio::select! {
        result = &mut connection => result,
        // HTTP/2 tells the client to open no more streams; unlike in HTTP/1 no request can be lost.
        () = drain.cancelled() => {
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
