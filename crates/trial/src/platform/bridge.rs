//! A port on this machine's loopback that leads to an address in a host's network, so that ordinary
//! clients outside the lab can speak with programs within.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use atoll_lab::Host;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Opens a connection from a host; it stays in the host's network wherever it is used.
pub async fn connect(host: &Host, target: SocketAddr) -> anyhow::Result<tokio::net::TcpStream> {
    let stream = host.in_network(move || TcpStream::connect_timeout(&target, CONNECT_LIMIT)).await?;
    let stream = stream.with_context(|| format!("cannot connect to {target} from {}", host.name()))?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(tokio::net::TcpStream::from_std(stream)?)
}

/// Open until dropped; connections that are open then go on until either side ends them.
#[derive(Debug)]
pub struct Bridge {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Bridge {
    pub async fn open(host: Host, target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            while let Ok((mut outer, _)) = listener.accept().await {
                let host = host.clone();
                tokio::spawn(async move {
                    // A target that is not there shows as a closed connection, as it would without us.
                    if let Ok(mut inner) = connect(&host, target).await {
                        tokio::io::copy_bidirectional(&mut outer, &mut inner).await.ok();
                    }
                });
            }
        });
        Ok(Self { address, accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
