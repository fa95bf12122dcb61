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

/// Connections of `listener` whose handshake succeeded. Ends when the receiver is dropped.
pub fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    trust: Arc<Trust>,
) -> ReceiverStream<std::io::Result<PeerStream>> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
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
            let (acceptor, sender, trust) = (acceptor.clone(), sender.clone(), trust.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let handshake = async {
                    tcp.set_nodelay(true)?;
                    let tls = acceptor.accept(tcp).await?;
                    PeerStream::new(tls.into(), &trust)
                };
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                    // A send fails only when the server is going away.
                    Ok(Ok(stream)) => drop(sender.send(Ok(stream)).await),
                    Ok(Err(error)) => tracing::info!(%address, %error, "refused a peer"),
                    Err(_) => tracing::info!(%address, "a peer did not finish its TLS handshake"),
                }
            });
        }
    });
    ReceiverStream::new(receiver)
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
