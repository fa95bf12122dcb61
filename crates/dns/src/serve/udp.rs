//! The loop of one UDP socket.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::limit::{Allowance, Limiter, Verdict};
use super::{Later, Next, Now, Request, Responder, handle};
use crate::wire::{Code, Query, Reply, Transport};

/// Answers over UDP that may be outstanding for one socket.
const MAX_LATER: usize = 2048;

/// How a UDP socket is served. Bind it to an address, not to all: answers leave from where it is bound.
/// For more cores, give several sockets of one address (`SO_REUSEPORT`) a loop each.
#[derive(Clone)]
pub struct Udp {
    pub responder: Arc<dyn Responder>,
    pub allowance: Allowance,
}

/// Serves until told to stop.
pub async fn udp(socket: UdpSocket, serve: Udp, stop: CancellationToken) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
    let outstanding = Arc::new(Semaphore::new(MAX_LATER));
    let mut limiter = Limiter::new(serve.allowance, Now::read().instant);
    let mut batch = Batch::default();
    loop {
        let received = socket.async_io(Interest::READABLE, || batch.receive(socket.as_fd()));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            received = received => match received {
                Ok(()) => {}
                // An answer of ours that found nobody; the socket is fine.
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            },
        }
        let now = Now::read();
        for (question, from, answer) in batch.each() {
            let verdict = limiter.judge(from.ip(), now.instant);
            if verdict == Verdict::Drop {
                continue;
            }
            if verdict == Verdict::Truncate {
                truncated(question, answer);
                continue;
            }
            let next = handle(&*serve.responder, question, from.ip(), Transport::Udp, now, answer);
            if let Some(Next::Later(later)) = next {
                answer.clear();
                match outstanding.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let send = send_later(socket.clone(), from, later);
                        tokio::spawn(async move {
                            send.await;
                            drop(permit);
                        });
                    }
                    Err(_) => overloaded(question, from, now, answer),
                }
            }
        }
        batch.send(socket.as_fd());
    }
}

async fn send_later(socket: Arc<tokio::net::UdpSocket>, to: SocketAddr, later: Later) {
    let answer = later.await;
    // A lost answer is asked for again.
    if let Err(error) = socket.send_to(&answer, to).await {
        tracing::debug!(%to, %error, "an answer could not be sent");
    }
}

fn truncated(question: &[u8], answer: &mut Vec<u8>) {
    if let Ok(query) = Query::read(question) {
        let mut reply = Reply::new(&query, Transport::Udp, answer);
        reply.truncate();
        reply.finish(Code::NoError);
    }
}

fn overloaded(question: &[u8], from: SocketAddr, now: Now, answer: &mut Vec<u8>) {
    if let Ok(query) = Query::read(question) {
        Request { query: &query, from: from.ip(), transport: Transport::Udp, now }.refuse(Code::ServFail, answer);
    }
}

/// Errors of earlier packets, which say nothing of the socket.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable)
}
