//! A TLS connection between two processes of the platform, closed from outside when the peer is
//! revoked.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::identity::Identity;
use crate::trust::{Trust, identity_of};

/// The other end of a connection, found in the extensions of every request served.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `None` only for callers without a certificate, where those are allowed at all.
    pub identity: Option<Identity>,
    pub address: SocketAddr,
}

pub struct PeerStream {
    tls: TlsStream<TcpStream>,
    peer: Peer,
    revoked: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    // Kept so that `Trust` knows this connection to be open.
    _tracked: Option<Arc<CancellationToken>>,
}

impl PeerStream {
    /// Wraps a connection whose handshake is done; refuses peers revoked meanwhile.
    pub fn new(tls: TlsStream<TcpStream>, trust: &Trust) -> io::Result<Self> {
        let (tcp, session) = tls.get_ref();
        let address = tcp.peer_addr()?;
        let identity = session.peer_certificates().and_then(|chain| chain.first()).and_then(identity_of);
        let tracked = match &identity {
            Some(identity) => Some(trust.track(identity).ok_or_else(revoked_error)?),
            None => None,
        };
        let revoked = tracked.as_ref().map(|token| Box::pin(CancellationToken::clone(token).cancelled_owned()));
        Ok(Self { tls, peer: Peer { identity, address }, revoked, _tracked: tracked })
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What both sides agreed to speak in the handshake, if they did.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.tls.get_ref().1.alpn_protocol()
    }

    fn check_revoked(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let revoked = self.revoked.as_mut().is_some_and(|revoked| revoked.as_mut().poll(context).is_ready());
        if revoked { Err(revoked_error()) } else { Ok(()) }
    }
}

fn revoked_error() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the peer's identity was revoked")
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_revoked(cx)?;
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check_revoked(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_revoked(cx)?;
        Pin::new(&mut self.tls).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
