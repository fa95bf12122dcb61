//! The rest of the world's names, asked of upstream resolvers and kept. Messages are kept as they came:
//! every type of record, and signatures for those who check them, pass through unread.
//!
//! What has expired is kept for a day longer and given when no upstream answers (RFC 8767). Of equal
//! questions at once one goes out.

mod kept;
mod upstream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::generations::Generations;
use crate::internal::Recursion;
use crate::serve::{Clients, Later, Next, Now, Request};
use crate::wire::{Code, Query, Reply, Transport, Type, mask};

pub use kept::Kept;
use upstream::Upstreams;

/// Messages kept; the longest of them take 4 KiB each.
const CAPACITY: usize = 10_000;
/// Different questions that may be on their way at once.
const MAX_FLIGHTS: usize = 1024;
/// Questions that one private network may have on their way at once.
const MAX_OF_NETWORK: usize = 256;
/// The leading bits of a 6PN address that are its network's.
const NETWORK_BITS: u8 = 48;
/// How long a client waits when something expired could be given (RFC 8767 section 5).
const PATIENCE: Duration = Duration::from_millis(1800);
/// How long something expired is given before upstreams are asked again.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Asks for others, and remembers.
pub struct Forwarder {
    upstreams: Upstreams,
    cache: Mutex<Generations<Question, Arc<Kept>>>,
    flights: Mutex<HashMap<Question, watch::Receiver<Option<Landed>>>>,
    waiting: Arc<Clients>,
}

/// What is asked upstream; clients who ask the same get the same.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Question {
    name: Box<[u8]>,
    kind: Type,
    dnssec_ok: bool,
    checking_disabled: bool,
}

/// What upstreams said; none when none answered.
type Landed = Option<Arc<Kept>>;

impl Question {
    fn of(query: &Query<'_>) -> Self {
        Self {
            name: query.name.wire().into(),
            kind: query.kind,
            dnssec_ok: query.wants_signatures(),
            checking_disabled: query.checking_disabled,
        }
    }
}

impl Forwarder {
    /// Asks these servers, in the order in which they prove to answer.
    pub fn new(upstreams: Vec<SocketAddr>) -> Self {
        Self {
            upstreams: Upstreams::new(upstreams),
            cache: Mutex::new(Generations::new(CAPACITY)),
            flights: Mutex::default(),
            waiting: Arc::default(),
        }
    }

    /// Asks these servers from now on.
    pub fn set_upstreams(&self, upstreams: Vec<SocketAddr>) {
        self.upstreams.replace(upstreams);
    }

    fn cache(&self) -> MutexGuard<'_, Generations<Question, Arc<Kept>>> {
        // Whoever panicked meanwhile left whole messages.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Question, watch::Receiver<Option<Landed>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight of a question or begins one. None when too many are out.
    fn fly(self: &Arc<Self>, question: &Question) -> Option<watch::Receiver<Option<Landed>>> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(question) {
            return Some(flight.clone());
        }
        if flights.len() >= MAX_FLIGHTS {
            return None;
        }
        let (landing, flight) = watch::channel(None);
        flights.insert(question.clone(), flight.clone());
        drop(flights);
        let (forwarder, question) = (self.clone(), question.clone());
        tokio::spawn(async move {
            let landed = forwarder.fetch(&question).await;
            forwarder.flights().remove(&question);
            // Nobody waits any more: what came is in the cache.
            landing.send(Some(landed)).ok();
        });
        Some(flight)
    }

    async fn fetch(&self, question: &Question) -> Landed {
        match self.upstreams.ask(question).await {
            Ok(kept) => {
                let kept = Arc::new(kept);
                if kept.is_small() {
                    self.cache().insert(question.clone(), kept.clone());
                }
                Some(kept)
            }
            Err(error) => {
                tracing::debug!(%error, "no upstream resolver answered");
                let now = Now::read().instant;
                let mut cache = self.cache();
                let expired = cache.get(question).filter(|kept| kept.is_usable(now));
                if let Some(kept) = expired {
                    cache.insert(question.clone(), Arc::new(kept.held_until(now + RETRY_AFTER)));
                }
                None
            }
        }
    }

    /// What there is to say after waiting as long as is worth it.
    async fn wait(self: Arc<Self>, question: Question, expired: Option<Arc<Kept>>) -> Landed {
        let Some(mut flight) = self.fly(&question) else { return expired };
        let landed = async {
            let landed = flight.wait_for(Option::is_some).await.ok()?;
            landed.clone().flatten()
        };
        match expired {
            None => landed.await,
            Some(expired) => Some(timeout(PATIENCE, landed).await.ok().flatten().unwrap_or(expired)),
        }
    }
}

impl Recursion for Forwarder {
    fn resolve(self: Arc<Self>, request: &Request<'_>, out: &mut Vec<u8>) -> Next {
        let question = Question::of(request.query);
        let kept = self.cache().get(&question).filter(|kept| kept.is_usable(request.now.instant));
        if let Some(kept) = kept.as_ref().filter(|kept| kept.is_fresh(request.now.instant)) {
            kept.write(request.query, request.transport, request.now.instant, out);
            return Next::Reply;
        }
        let (message, transport) = (request.query.message().to_vec(), request.transport);
        let place = Clients::enter(&self.waiting, mask(request.from, NETWORK_BITS), MAX_OF_NETWORK);
        let later: Later = Box::pin(async move {
            let landed = if place.is_some() { self.wait(question, kept).await } else { kept };
            drop(place);
            answered(&message, transport, landed.as_deref())
        });
        Next::Later(later)
    }
}

fn answered(message: &[u8], transport: Transport, kept: Option<&Kept>) -> Vec<u8> {
    let mut out = Vec::new();
    // It was read before.
    let Ok(query) = Query::read(message) else { return out };
    match kept {
        Some(kept) => kept.write(&query, transport, Now::read().instant, &mut out),
        None => {
            let mut reply = Reply::new(&query, transport, &mut out);
            reply.recursive();
            reply.finish(Code::ServFail);
        }
    }
    out
}

#[cfg(test)]
mod tests;
