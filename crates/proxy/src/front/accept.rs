//! Accept loops. A listening socket is shared by all cores; each takes what it can carry.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::Core;

/// Bounds the open connections of one core.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn new(connections: usize) -> Self {
        Self(Arc::new(Semaphore::new(connections)))
    }
}

/// Accepts until the edge drains. Each connection gets a task of its own that `serve` fills.
pub(crate) async fn accept<F>(
    core: Arc<Core>,
    listener: TcpListener,
    gate: Gate,
    serve: impl Fn(Arc<Core>, TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let drain = core.edge.shutdown.drain.clone();
    let accepting = async {
        loop {
            let Ok(place) = gate.0.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => admit(&core, stream, peer, place, &serve),
                Err(error) => recover(&error).await,
            }
            // With several cores on one socket, let the others take the next connection.
            tokio::task::yield_now().await;
        }
    };
    drain.run_until_cancelled(accepting).await;
}

fn admit<F>(
    core: &Arc<Core>,
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    serve: &impl Fn(Arc<Core>, TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    core.edge.counters.connections.one();
    if let Err(error) = stream.set_nodelay(true) {
        // The peer has gone already; serving it will find out.
        tracing::debug!(%error, "a new connection refused an option");
    }
    let serving = serve(core.clone(), stream, peer);
    core.edge.tasks.spawn(async move {
        serving.await;
        drop(place);
    });
}

/// A connection that died in the queue is nothing; a lack of file descriptors needs a pause.
async fn recover(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        tracing::warn!(%error, "accepting connections is not possible at the moment");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
