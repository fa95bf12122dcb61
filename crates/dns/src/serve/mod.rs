//! Carries questions and answers over UDP and TCP. What is answered is a [`Responder`]'s business; that
//! nobody asks too much, holds too many connections or waits without end is decided here.

mod batch;
mod clients;
mod counters;
mod limit;
mod tcp;
mod udp;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub(crate) use clients::Clients;
use counters::{Counted, Counters};
pub use limit::{Allowance, Limiter, Verdict};
pub use tcp::TcpLimits;

use atoll_signals::metrics::Source;

use crate::wire::{Code, Query, Reply, Transport, Unanswerable};

/// Answers at any number of sockets. Bind each to an address, not to all: answers leave from where it is
/// bound. Clones share their counters.
#[derive(Clone)]
pub struct Server {
    responder: Arc<dyn Responder>,
    allowance: Allowance,
    tcp_limits: TcpLimits,
    counters: Arc<Counters>,
}

impl Server {
    pub fn new(responder: Arc<dyn Responder>, allowance: Allowance) -> Self {
        Self { responder, allowance, tcp_limits: TcpLimits::default(), counters: Arc::default() }
    }

    pub fn with_tcp_limits(self, tcp_limits: TcpLimits) -> Self {
        Self { tcp_limits, ..self }
    }

    /// For the process's metrics; `names` says whose names are answered.
    pub fn metrics(&self, names: &'static str) -> Arc<dyn Source> {
        Arc::new(Counted { names, counters: self.counters.clone() })
    }
}

/// A moment, on both clocks that answers need: what was kept ages by one, signatures by the other.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub instant: Instant,
    /// Seconds since 1970.
    pub unix: u64,
}

impl Now {
    pub fn read() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { instant: Instant::now(), unix }
    }
}

/// One question with its circumstances.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub query: &'a Query<'a>,
    pub from: IpAddr,
    pub transport: Transport,
    pub now: Now,
}

impl Request<'_> {
    /// Writes an answer without records.
    pub fn refuse(&self, code: Code, out: &mut Vec<u8>) -> Next {
        Reply::new(self.query, self.transport, out).finish(code);
        Next::Reply
    }
}

/// An answer that takes time.
pub type Later = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;
/// A zone in as many messages as it needs, made where it may take its time.
pub type Transfer = Box<dyn FnOnce() -> Vec<Vec<u8>> + Send>;

/// What is to be done about a question.
pub enum Next {
    /// The answer was written.
    Reply,
    Later(Later),
    /// Over TCP alone.
    Transfer(Transfer),
}

/// Answers questions. Must not block: it runs between packets.
pub trait Responder: Send + Sync + 'static {
    fn respond(&self, request: &Request<'_>, out: &mut Vec<u8>) -> Next;
}

/// Reads a message and has it answered into `out`. None where silence is the answer.
pub fn handle(
    responder: &dyn Responder,
    message: &[u8],
    from: IpAddr,
    transport: Transport,
    now: Now,
    out: &mut Vec<u8>,
) -> Option<Next> {
    let query = match Query::read(message) {
        Ok(query) => query,
        Err(unanswerable) => return Unanswerable::write(&unanswerable, out).then_some(Next::Reply),
    };
    // A socket for both families shows IPv4 clients in the other's form.
    let request = Request { query: &query, from: from.to_canonical(), transport, now };
    if query.edns.is_some_and(|edns| edns.version > 0) {
        return Some(request.refuse(Code::BadVers, out));
    }
    Some(responder.respond(&request, out))
}
