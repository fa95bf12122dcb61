//! Opening a connection to another edge and making sure who it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::NodeName;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_rustls::TlsConnector;

use crate::body::RequestBody;
use crate::node::dial;
use crate::surroundings::BackhaulTls;

/// Bytes that may be on their way on one stream and one connection: what a distant, fast path holds.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A dead path is noticed by an unanswered ping.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no connection to another edge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("node {0} names no address for other edges")]
    NoAddress(NodeName),
    #[error("connecting to the edge of node {node} at {address}")]
    Connect { node: NodeName, address: SocketAddr, source: io::Error },
    #[error("the TLS handshake with the edge of node {node}")]
    Handshake { node: NodeName, source: io::Error },
    #[error("the edge at {address} is not that of node {expected} but of {found:?}")]
    WrongPeer { address: SocketAddr, expected: NodeName, found: Option<NodeName> },
    #[error("the HTTP/2 handshake with the edge of node {node}")]
    Http { node: NodeName, source: hyper::Error },
    #[error("connecting to the edge of node {0} took too long")]
    TimedOut(NodeName),
}

/// Connects to `node`'s edge at `address`, within `limit` in all.
pub(super) async fn connect(
    tls: &Arc<dyn BackhaulTls>,
    node: &NodeName,
    address: SocketAddr,
    limit: Duration,
) -> Result<SendRequest<RequestBody>, ConnectError> {
    tokio::time::timeout(limit, open(tls, node, address, limit))
        .await
        .unwrap_or_else(|_| Err(ConnectError::TimedOut(node.clone())))
}

async fn open(
    tls: &Arc<dyn BackhaulTls>,
    node: &NodeName,
    address: SocketAddr,
    limit: Duration,
) -> Result<SendRequest<RequestBody>, ConnectError> {
    let stream =
        dial(address, limit).await.map_err(|source| ConnectError::Connect { node: node.clone(), address, source })?;
    let stream = TlsConnector::from(tls.client())
        .connect(tls.server_name(node), stream)
        .await
        .map_err(|source| ConnectError::Handshake { node: node.clone(), source })?;
    let found = stream.get_ref().1.peer_certificates().and_then(|chain| tls.identify(chain));
    if found.as_ref() != Some(node) {
        return Err(ConnectError::WrongPeer { address, expected: node.clone(), found });
    }
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Http { node: node.clone(), source })?;
    let node = node.clone();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%node, %error, "a connection to another edge broke");
        }
    });
    Ok(sender)
}
