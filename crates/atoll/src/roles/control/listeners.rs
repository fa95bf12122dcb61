//! How connections come to the API, and who is at their other end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use atoll_rpc::identity::Role;
use atoll_rpc::stream::PeerStream;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A client itself, by its address.
    Client(SocketAddr),
    /// An edge that has proven itself; it says who its client is.
    Edge,
}

impl Connected<IncomingStream<'_, TcpListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self::Client(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self::Client(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, Edges>> for Caller {
    fn connect_info(_: IncomingStream<'_, Edges>) -> Self {
        Self::Edge
    }
}

/// Connections of clients whose handshake is done; slow ones do not hold up the others.
pub struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
}

impl TlsListener {
    pub fn new(listener: TcpListener, config: Arc<ServerConfig>) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(64);
        let acceptor = TlsAcceptor::from(config);
        tokio::spawn(async move {
            let mut listener = listener;
            loop {
                // `Listener::accept` waits out errors such as a lack of descriptors.
                let (tcp, address) = Listener::accept(&mut listener).await;
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
                        // The server is ending when nobody takes it.
                        sender.send((tls, address)).await.ok();
                    }
                });
            }
        });
        Ok(Self { ready, local })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// Connections of edges; those of anybody else are closed.
pub struct Edges(pub mpsc::Receiver<PeerStream>);

impl Listener for Edges {
    type Io = PeerStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        while let Some(stream) = self.0.recv().await {
            let peer = stream.peer();
            match &peer.identity {
                Some(identity) if identity.role == Role::Edge => {
                    let address = peer.address;
                    return (stream, address);
                }
                _ => tracing::warn!(address = %peer.address, "no edge may hand requests to the API from there"),
            }
        }
        std::future::pending().await
    }

    /// They come through the socket of the nodes' service.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
