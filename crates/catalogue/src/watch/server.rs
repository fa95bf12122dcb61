//! Serves one watch, for an owner or a hub. Nothing piles up here: the next message is made only
//! when the transport has room for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atoll_model::NodeName;
use atoll_model::row::Reader;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::HEARTBEAT;
use super::client::BoxError;
use crate::protocol::Positions;
use crate::protocol::codec::Malformed;
use crate::protocol::hub::SessionId;
use crate::protocol::message::{Ack, Event, LeaseGrant, Part, Request};
use crate::protocol::series::Session;

/// A watcher that says nothing for this long is let go; it says something every [`HEARTBEAT`].
const PATIENCE: Duration = Duration::from_secs(3);

/// Rows to be watched.
pub trait Source: Send + Sync {
    /// Changes whenever there may be a next part.
    fn changed(&self) -> watch::Receiver<u64>;
    /// What the watcher is to be sent next.
    fn next_part(&self, session: &mut Session) -> Option<Part>;
    /// A watcher opened the stream, or asked again on it, serving by these positions.
    fn opened(&self, watcher: &NodeName, session: SessionId, positions: &Positions);
    fn acknowledged(&self, watcher: &NodeName, session: SessionId, ack: Ack) -> Option<LeaseGrant>;
    /// The stream is gone.
    fn ended(&self, watcher: &NodeName, session: SessionId);
    /// As [`Source::opened`], by a process that decides nothing by these rows and is leased nothing.
    fn reader_opened(&self, _: &NodeName, _: Reader, _: SessionId, _: &Positions) {}
    /// As [`Source::acknowledged`], by such a process.
    fn reader_acknowledged(&self, _: &NodeName, _: Reader, _: SessionId, _: &Ack) {}
}

/// Why a watch was ended from the server's side.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{watcher} sent nothing for {PATIENCE:?}")]
    Silent { watcher: NodeName },
    #[error("the stream of {watcher} broke")]
    Broken {
        watcher: NodeName,
        #[source]
        source: BoxError,
    },
    #[error("{watcher} sent what is no request")]
    Malformed {
        watcher: NodeName,
        #[source]
        source: Malformed,
    },
    #[error("{watcher} acknowledged before it opened its watch")]
    NotOpened { watcher: NodeName },
}

static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// What is to be sent as soon as there is room.
#[derive(Default)]
struct Due {
    lease: Option<LeaseGrant>,
    rows: bool,
    heartbeat: bool,
}

/// Serves `watcher` (as its certificate names it) until it leaves. Runs on the caller's task.
pub async fn serve_watch<S, E>(
    source: &impl Source,
    watcher: NodeName,
    incoming: S,
    outgoing: mpsc::Sender<Bytes>,
) -> Result<(), ServeError>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: Into<BoxError>,
{
    let id = SessionId(SESSIONS.fetch_add(1, Ordering::Relaxed));
    let ending = Ending { source, watcher: &watcher, id };
    let result = serve(source, &watcher, id, incoming, outgoing).await;
    drop(ending);
    result
}

/// Tells the source that the session is over, also when the serving task is dropped.
struct Ending<'a, S: Source> {
    source: &'a S,
    watcher: &'a NodeName,
    id: SessionId,
}

impl<S: Source> Drop for Ending<'_, S> {
    fn drop(&mut self) {
        self.source.ended(self.watcher, self.id);
    }
}

async fn serve<S, E>(
    source: &impl Source,
    watcher: &NodeName,
    id: SessionId,
    incoming: S,
    outgoing: mpsc::Sender<Bytes>,
) -> Result<(), ServeError>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: Into<BoxError>,
{
    let mut incoming = std::pin::pin!(incoming);
    let named = || watcher.clone();
    let mut session: Option<Session> = None;
    let mut changed = source.changed();
    let mut due = Due::default();
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard_at = Instant::now();
    loop {
        tokio::select! {
            request = incoming.next() => {
                heard_at = Instant::now();
                let request = match request {
                    None => return Ok(()),
                    Some(Err(source)) => return Err(ServeError::Broken { watcher: named(), source: source.into() }),
                    Some(Ok(message)) => Request::decode(message)
                        .map_err(|source| ServeError::Malformed { watcher: named(), source })?,
                };
                match request {
                    Request::Watch(positions) => {
                        source.opened(watcher, id, &positions);
                        session = Some(Session::new(positions));
                        due.rows = true;
                    }
                    Request::Ack(_) if session.is_none() => return Err(ServeError::NotOpened { watcher: named() }),
                    Request::Ack(ack) => due.lease = source.acknowledged(watcher, id, ack).or(due.lease),
                }
            }
            Ok(()) = changed.changed() => due.rows = true,
            _ = heartbeat.tick() => due.heartbeat = true,
            permit = outgoing.reserve(), if due.any() => {
                // The watcher hung up.
                let Ok(permit) = permit else { return Ok(()) };
                if let Some(event) = due.take_next(source, session.as_mut()) {
                    permit.send(event.encode());
                }
            }
            () = sleep_until(heard_at + PATIENCE) => return Err(ServeError::Silent { watcher: named() }),
        }
    }
}

impl Due {
    fn any(&self) -> bool {
        self.rows || self.heartbeat || self.lease.is_some()
    }

    /// Leases first, for they age; then rows; a heartbeat when there is nothing else to say.
    fn take_next(&mut self, source: &impl Source, session: Option<&mut Session>) -> Option<Event> {
        if let Some(grant) = self.lease.take() {
            return Some(Event::Lease(grant));
        }
        if self.rows {
            if let Some(part) = session.and_then(|session| source.next_part(session)) {
                return Some(Event::Rows(part));
            }
            self.rows = false;
        }
        std::mem::take(&mut self.heartbeat).then_some(Event::Heartbeat)
    }
}
