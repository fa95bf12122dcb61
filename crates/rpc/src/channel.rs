//! Connecting to peers: a gRPC channel over TLS that proves whom it reached, and plain channels over
//! the unix sockets of the same node.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::identity::Expected;
use crate::stream::PeerStream;
use crate::tls::{ALPN_H2, IdentityError, LiveIdentity, anonymous_config};
use crate::trust::{Anchor, Trust};

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

fn timed_out(address: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{address} did not answer within {CONNECT_TIMEOUT:?}"))
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
    let dialer = Dialer::new(live, address, expected, ALPN_H2)?;
    let connector = tower::service_fn(move |_: Uri| {
        let dialer = dialer.clone();
        async move { dialer.dial().await.map(TokioIo::new) }
    });
    Ok(endpoint().connect_with_connector_lazy(connector))
}

/// Opens connections to one address that speak one protocol.
#[derive(Clone)]
pub struct Dialer {
    address: String,
    tls: TlsConnector,
    protocol: &'static [u8],
    trust: Arc<Trust>,
}

impl Dialer {
    /// For `address` (host:port) and a protocol by its ALPN.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(
        live: &Arc<LiveIdentity>,
        address: impl Into<String>,
        expected: Expected,
        protocol: &'static [u8],
    ) -> Result<Self, IdentityError> {
        let mut tls = ClientConfig::clone(live.client_config(expected)?.as_ref());
        tls.alpn_protocols = vec![protocol.to_vec()];
        let tls = TlsConnector::from(Arc::new(tls));
        Ok(Self { address: address.into(), tls, protocol, trust: live.trust().clone() })
    }

    /// A new connection, on which both sides have proven who they are.
    ///
    /// # Errors
    /// If nobody answers in time, or somebody else, or one who does not speak the protocol.
    pub async fn dial(&self) -> io::Result<PeerStream> {
        let dialing = async {
            let tcp = TcpStream::connect(&self.address).await?;
            tcp.set_nodelay(true)?;
            let stream = PeerStream::new(self.tls.connect(unused_name(), tcp).await?.into(), &self.trust)?;
            match stream.protocol() == Some(self.protocol) {
                true => Ok(stream),
                false => Err(io::Error::new(io::ErrorKind::Unsupported, "the peer does not speak the protocol")),
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, dialing).await.map_err(|_| timed_out(&self.address))?
    }
}

/// A channel to control for whoever has no certificate, or none that control takes.
pub async fn connect_anonymously(address: &str, anchor: Anchor) -> Result<Channel, AnonymousError> {
    let tls = TlsConnector::from(anonymous_config(anchor)?);
    let connecting = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        tls.connect(unused_name(), tcp).await
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .unwrap_or_else(|_| Err(timed_out(address)))
        .map_err(|source| AnonymousError::Connect { address: address.to_owned(), source })?;
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.take().ok_or_else(|| std::io::Error::other("a connection of this kind is used once"));
        async move { stream }
    });
    endpoint().connect_with_connector(connector).await.map_err(AnonymousError::Handshake)
}

#[derive(Debug, thiserror::Error)]
pub enum AnonymousError {
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
