//! Connections: messages with their length before them, one after another.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::clients::Clients;
use super::counters::count;
use super::{Next, Now, Server, handle};
use crate::wire::{HEADER, Transport};

/// How much connections may take.
#[derive(Clone, Copy, Debug)]
pub struct TcpLimits {
    /// At once, of all clients.
    pub connections: usize,
    /// At once, of one address.
    pub per_client: usize,
    /// Without a whole question, or with an answer that the client does not take.
    pub idle: Duration,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self { connections: 1000, per_client: 32, idle: Duration::from_secs(10) }
    }
}

impl Server {
    /// Answers over TCP until told to stop; open connections end with it.
    pub async fn tcp(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let all = Arc::new(Semaphore::new(self.tcp_limits.connections));
        let clients = Arc::new(Clients::default());
        loop {
            // Whoever comes when all are taken waits in the kernel's queue.
            let permit = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                permit = all.clone().acquire_owned() => permit.map_err(io::Error::other)?,
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Too many open files, or a client that left; neither ends the listener.
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let Some(place) = Clients::enter(&clients, from.ip(), self.tcp_limits.per_client) else { continue };
            count(&self.counters.connections);
            let (server, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                let served = tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    served = server.connection(stream, from.ip()) => served,
                };
                if let Err(error) = served {
                    tracing::debug!(%from, %error, "a connection ended");
                }
                drop((place, permit));
            });
        }
    }

    async fn connection(&self, mut stream: TcpStream, from: IpAddr) -> io::Result<()> {
        let idle = self.tcp_limits.idle;
        let (mut question, mut answer) = (Vec::new(), Vec::new());
        while timeout(idle, read(&mut stream, &mut question)).await?? {
            let next = handle(&*self.responder, &question, from, Transport::Tcp, Now::read(), &mut answer);
            match next {
                None => return Ok(()),
                Some(Next::Reply) => {
                    self.counters.answered(&answer);
                    timeout(idle, write(&mut stream, &answer)).await??;
                }
                Some(Next::Later(later)) => {
                    count(&self.counters.recursions);
                    let answer = later.await;
                    timeout(idle, write(&mut stream, &answer)).await??;
                }
                Some(Next::Transfer(transfer)) => {
                    let messages = tokio::task::spawn_blocking(transfer).await.map_err(io::Error::other)?;
                    for message in messages {
                        timeout(idle, write(&mut stream, &message)).await??;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads a message; false at the end of the connection.
async fn read(stream: &mut TcpStream, message: &mut Vec<u8>) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    if length < HEADER {
        return Ok(false);
    }
    message.resize(length, 0);
    stream.read_exact(message).await?;
    Ok(true)
}

async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    // One write, so that a small answer is one segment.
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}
