//! Upstream resolvers: one question each on a port of its own, over TCP when the answer is too long for
//! UDP, and the next one when a resolver does not answer.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::Question;
use super::kept::{Kept, answers};
use crate::wire::{CLASS_IN, Code, MAX_UDP, Malformed, Type};

/// How long each is given, first and when all were asked once.
const ROUNDS: [Duration; 2] = [Duration::from_millis(700), Duration::from_millis(1500)];
/// Packets that are no answer before one gives up: somebody is guessing.
const MAX_FORGERIES: usize = 16;

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("no upstream resolver is configured")]
    None,
    #[error("resolver {resolver} cannot be asked")]
    Io {
        resolver: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("resolver {resolver} did not answer in time")]
    Silent { resolver: SocketAddr },
    #[error("resolver {resolver} answered with code {code}")]
    Failed { resolver: SocketAddr, code: u8 },
    #[error("resolver {resolver} sent what is no answer")]
    Malformed {
        resolver: SocketAddr,
        #[source]
        source: Malformed,
    },
}

pub struct Upstreams {
    resolvers: ArcSwap<Vec<SocketAddr>>,
    /// The one that answered last is asked first.
    first: AtomicUsize,
}

impl Upstreams {
    pub fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self { resolvers: ArcSwap::from_pointee(resolvers), first: AtomicUsize::new(0) }
    }

    pub fn replace(&self, resolvers: Vec<SocketAddr>) {
        self.resolvers.store(Arc::new(resolvers));
    }

    pub async fn ask(&self, question: &Question) -> Result<Kept, UpstreamError> {
        let resolvers = self.resolvers.load_full();
        let first = self.first.load(Ordering::Relaxed);
        let mut failure = UpstreamError::None;
        for limit in ROUNDS {
            for offset in 0..resolvers.len() {
                let index = (first + offset) % resolvers.len();
                match ask_one(resolvers[index], question, limit).await {
                    Ok(kept) => {
                        self.first.store(index, Ordering::Relaxed);
                        return Ok(kept);
                    }
                    Err(error) => failure = error,
                }
            }
        }
        Err(failure)
    }
}

async fn ask_one(resolver: SocketAddr, question: &Question, limit: Duration) -> Result<Kept, UpstreamError> {
    let id = rand::rng().next_u32() as u16;
    let message = message(question, id);
    let answer = match timeout(limit, exchange(resolver, &message, question, id)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(source)) => return Err(UpstreamError::Io { resolver, source }),
        Err(_) => return Err(UpstreamError::Silent { resolver }),
    };
    let code = answer[3] & 0xf;
    if code != Code::NoError as u8 && code != Code::NxDomain as u8 {
        return Err(UpstreamError::Failed { resolver, code });
    }
    Kept::read(&answer, Instant::now()).map_err(|source| UpstreamError::Malformed { resolver, source })
}

fn message(question: &Question, id: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(64);
    let checking_disabled = if question.checking_disabled { 0x10 } else { 0 };
    message.extend(id.to_be_bytes());
    // Recursion desired; one question, one additional record.
    message.extend([0x01, checking_disabled, 0, 1, 0, 0, 0, 0, 0, 1]);
    message.extend(&question.name);
    message.extend(question.kind.0.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message.push(0);
    message.extend(Type::OPT.0.to_be_bytes());
    message.extend((MAX_UDP as u16).to_be_bytes());
    message.extend([0, 0, if question.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    message
}

/// An answer to this question; its code and records are not looked at.
async fn exchange(resolver: SocketAddr, message: &[u8], question: &Question, id: u16) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // The kernel passes on only what comes from there.
    socket.connect(resolver).await?;
    socket.send(message).await?;
    let is_answer = |answer: &[u8]| answers(answer, id, &question.name, question.kind);
    let mut answer = vec![0; 4096];
    for _ in 0..MAX_FORGERIES {
        let length = socket.recv(&mut answer).await?;
        if is_answer(&answer[..length]) {
            answer.truncate(length);
            let truncated = answer[2] & 0x02 != 0;
            return if truncated { exchange_tcp(resolver, message, is_answer).await } else { Ok(answer) };
        }
    }
    Err(io::Error::other("only packets that are no answer came"))
}

async fn exchange_tcp(resolver: SocketAddr, message: &[u8], is_answer: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    // A question is shorter than a hundredth of what its length can say.
    let framed = [&(message.len() as u16).to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if is_answer(&answer) { Ok(answer) } else { Err(io::Error::other("what came over TCP is no answer")) }
}
