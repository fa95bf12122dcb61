//! Accepting peers: TCP, TLS handshake with a deadline, then a stream that gRPC can serve.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::identity::{Identity, Role};
use crate::stream::{Peer, PeerStream};
use crate::trust::Trust;

/// A peer that has not finished its handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes in flight; more wait in the listening socket.
const MAX_HANDSHAKES: usize = 256;
/// Connections that wait for the server to take them.
const WAITING: usize = 64;

/// Connections of `listener` whose handshake succeeded. Ends when the receiver is dropped.
pub fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    trust: Arc<Trust>,
) -> ReceiverStream<std::io::Result<PeerStream>> {
    let (others, receiver) = mpsc::channel(WAITING);
    tokio::spawn(accept_for(Takers { others, apart: None }, listener, config, trust));
    ReceiverStream::new(receiver)
}

/// [`accept`], with the connections that speak `protocol`, which is offered beside the others, apart.
pub fn accept_apart(
    listener: TcpListener,
    config: &ServerConfig,
    trust: Arc<Trust>,
    protocol: &'static [u8],
) -> (ReceiverStream<std::io::Result<PeerStream>>, mpsc::Receiver<PeerStream>) {
    let mut config = config.clone();
    config.alpn_protocols.push(protocol.to_vec());
    let ((others, receiver), (apart, taken_apart)) = (mpsc::channel(WAITING), mpsc::channel(WAITING));
    let takers = Takers { others, apart: Some((protocol, apart)) };
    tokio::spawn(accept_for(takers, listener, Arc::new(config), trust));
    (ReceiverStream::new(receiver), taken_apart)
}

/// Who takes connections, by their protocol.
#[derive(Clone)]
struct Takers {
    others: mpsc::Sender<std::io::Result<PeerStream>>,
    apart: Option<(&'static [u8], mpsc::Sender<PeerStream>)>,
}

impl Takers {
    /// Fails only when the server is going away, to which a lost connection is nothing.
    async fn hand_over(&self, stream: PeerStream) {
        match &self.apart {
            Some((protocol, taker)) if stream.protocol() == Some(protocol) => drop(taker.send(stream).await),
            _ => drop(self.others.send(Ok(stream)).await),
        }
    }
}

async fn accept_for(takers: Takers, listener: TcpListener, config: Arc<ServerConfig>, trust: Arc<Trust>) {
    let acceptor = TlsAcceptor::from(config);
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = takers.others.closed() => return,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or a connection that died in the queue: the listener itself
                // is fine. The pause keeps a persistent error from spinning.
                tracing::warn!(%error, "cannot accept a peer's connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, takers, trust) = (acceptor.clone(), takers.clone(), trust.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let handshake = async {
                tcp.set_nodelay(true)?;
                let tls = acceptor.accept(tcp).await?;
                PeerStream::new(tls.into(), &trust)
            };
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(stream)) => takers.hand_over(stream).await,
                Ok(Err(error)) => tracing::info!(%address, %error, "refused a peer"),
                Err(_) => tracing::info!(%address, "a peer did not finish its TLS handshake"),
            }
        });
    }
}

/// The proven identity of a request's sender, or a refusal.
pub fn require_role<T>(request: &Request<T>, allowed: &[Role]) -> Result<Identity, Status> {
    let peer = request.extensions().get::<Peer>();
    match peer.and_then(|peer| peer.identity.as_ref()) {
        Some(identity) if allowed.contains(&identity.role) => Ok(identity.clone()),
        Some(identity) => Err(Status::permission_denied(format!("{identity} may not call this"))),
        None => Err(Status::unauthenticated("this call needs a node's certificate")),
    }
}
