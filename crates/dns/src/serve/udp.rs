//! The loop of one UDP socket.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::counters::count;
use super::limit::{Limiter, Verdict};
use super::{Later, Next, Now, Request, Server, handle};
use crate::wire::{Code, Query, Reply, Transport};

/// Answers over UDP that may be outstanding for one socket.
const MAX_LATER: usize = 2048;

impl Server {
    /// Answers at a UDP socket until told to stop. For more cores, give several sockets of one address
    /// (`SO_REUSEPORT`) a loop each.
    pub async fn udp(self, socket: UdpSocket, stop: CancellationToken) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
        let limiter = Limiter::new(self.allowance, Now::read().instant);
        let outstanding = Arc::new(Semaphore::new(MAX_LATER));
        let mut desk = Desk { server: self, socket: socket.clone(), limiter, outstanding };
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
                desk.answer(question, from, now, answer);
            }
            batch.send(socket.as_fd());
        }
    }
}

/// Where the questions of one socket are judged and answered.
struct Desk {
    server: Server,
    socket: Arc<tokio::net::UdpSocket>,
    limiter: Limiter,
    outstanding: Arc<Semaphore>,
}

impl Desk {
    /// Writes the answer, or nothing when there is none or it comes later.
    fn answer(&mut self, question: &[u8], from: SocketAddr, now: Now, answer: &mut Vec<u8>) {
        let counters = &self.server.counters;
        match self.limiter.judge(from.ip(), now.instant) {
            Verdict::Send => {}
            Verdict::Truncate => {
                count(&counters.truncated);
                return truncated(question, answer);
            }
            Verdict::Drop => return count(&counters.dropped),
        }
        match handle(&*self.server.responder, question, from.ip(), Transport::Udp, now, answer) {
            Some(Next::Reply) => counters.answered(answer),
            // Whole zones travel over connections alone, which responders know.
            None | Some(Next::Transfer(_)) => answer.clear(),
            Some(Next::Later(later)) => {
                answer.clear();
                match self.outstanding.clone().try_acquire_owned() {
                    Ok(permit) => {
                        count(&counters.recursions);
                        tokio::spawn(send_later(self.socket.clone(), from, later, permit));
                    }
                    Err(_) => {
                        count(&counters.overloaded);
                        overloaded(question, from, now, answer);
                    }
                }
            }
        }
    }
}

async fn send_later(socket: Arc<tokio::net::UdpSocket>, to: SocketAddr, later: Later, permit: OwnedSemaphorePermit) {
    let answer = later.await;
    // A lost answer is asked for again.
    if let Err(error) = socket.send_to(&answer, to).await {
        tracing::debug!(%to, %error, "an answer could not be sent");
    }
    drop(permit);
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
