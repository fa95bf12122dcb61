//! Connecting to peers: a gRPC channel over TLS that proves whom it reached, and plain channels over
//! the unix sockets of the same node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::identity::Expected;
use crate::stream::PeerStream;
use crate::tls::{IdentityError, LiveIdentity, joining_config};

/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

fn endpoint() -> Endpoint {
    // The name is never looked up: the connector decides where to go.
    Endpoint::from_static("http://peer")
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
}

fn timed_out(address: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{address} did not answer within {CONNECT_TIMEOUT:?}"))
}

/// The name in the TLS handshake is not used: identities are, see [`Expected`].
fn unused_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// A channel to `address` (host:port) that connects when first used and again after a break. Fails
/// each call while the process there is not the expected one.
pub fn connect(
    live: &Arc<LiveIdentity>,
    address: impl Into<String>,
    expected: Expected,
) -> Result<Channel, IdentityError> {
    let address = address.into();
    let tls = TlsConnector::from(live.client_config(expected)?);
    let trust = live.trust().clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls, trust) = (address.clone(), tls.clone(), trust.clone());
        async move {
            let connecting = async {
                let tcp = TcpStream::connect(&address).await?;
                tcp.set_nodelay(true)?;
                let stream = tls.connect(unused_name(), tcp).await?;
                PeerStream::new(stream.into(), &trust)
            };
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| timed_out(&address))??;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Ok(endpoint().connect_with_connector_lazy(connector))
}

/// A channel for joining: trusts only the platform whose root has this fingerprint.
pub async fn connect_to_join(address: &str, root_fingerprint: &str) -> Result<Channel, JoinConnectError> {
    let tls = TlsConnector::from(joining_config(root_fingerprint)?);
    let connecting = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        tls.connect(unused_name(), tcp).await
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .unwrap_or_else(|_| Err(timed_out(address)))
        .map_err(|source| JoinConnectError::Connect { address: address.to_owned(), source })?;
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.take().ok_or_else(|| std::io::Error::other("the connection for joining is used once"));
        async move { stream }
    });
    endpoint().connect_with_connector(connector).await.map_err(JoinConnectError::Handshake)
}

#[derive(Debug, thiserror::Error)]
pub enum JoinConnectError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot connect to control at {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the server at that address does not speak Atoll's node protocol")]
    Handshake(#[source] tonic::transport::Error),
}

/// A channel over a unix socket of this node.
pub fn connect_local(path: &Path) -> Channel {
    let path: PathBuf = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    endpoint().connect_with_connector_lazy(connector)
}
