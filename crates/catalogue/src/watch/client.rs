//! One watch from the watcher's side: opens it, feeds what comes, acknowledges, and keeps it open
//! with growing pauses between attempts. Edges and hubs watch alike; what they do with rows is their
//! [`Sink`].

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{HEARTBEAT, Streams};
use crate::protocol::codec::Malformed;
use crate::protocol::message::{Ack, Event, LeaseGrant, Part, Request};
use crate::protocol::replica::{AskAgain, Outcome};
use crate::protocol::targets::{SILENCE, Target};
use crate::protocol::{PathId, Positions};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Who takes the rows of a watch.
pub(super) trait Sink: Clone + Send + Sync + 'static {
    /// What the sink serves by.
    fn positions(&self) -> Positions;
    /// Applies a part; returns after the result is being served.
    fn receive(&self, path: PathId, part: Part) -> Outcome;
    fn close(&self, path: PathId);
    /// Something was heard from this server.
    fn heard(&self, target: &Target);
    /// The acknowledgement owed to this server, given what it has been told.
    fn acknowledgement(&self, target: &Target, told: &mut Positions) -> Ack;
    fn leased(&self, grant: LeaseGrant);
    /// Changes with each move of the positions.
    fn moved(&self) -> watch::Receiver<u64>;
    /// Changes when all watches must ask again.
    fn ask_again(&self) -> watch::Receiver<u64>;
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("cannot connect")]
    Connect(#[source] BoxError),
    #[error("no connection within {SILENCE:?}")]
    ConnectTimeout,
    #[error("the stream broke")]
    Broken(#[source] BoxError),
    #[error("the server ended the stream")]
    Ended,
    #[error("nothing came for {SILENCE:?}")]
    Silent,
    #[error("the server sent what is no event")]
    Malformed(#[from] Malformed),
    #[error("the server's rows have gaps again and again")]
    Gaps,
}

/// Asking again within this time of the last gap makes no sense; another connection might.
const GAP_PAUSE: Duration = Duration::from_secs(1);

static PATHS: AtomicU64 = AtomicU64::new(0);

/// Keeps one target watched until `stop`.
pub(super) async fn keep_watching<S, C, F>(
    target: Target,
    sink: S,
    connect: C,
    mut rng: StdRng,
    stop: CancellationToken,
) where
    S: Sink,
    C: Fn(Target) -> F,
    F: Future<Output = Result<Streams, BoxError>>,
{
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let path = PathId(PATHS.fetch_add(1, Ordering::Relaxed));
        let ended = tokio::select! {
            () = stop.cancelled() => None,
            error = watch_once(&target, path, &sink, connect(target.clone())) => Some(error),
        };
        sink.close(path);
        let Some(error) = ended else { return };
        tracing::debug!(?target, error = &error as &dyn std::error::Error, "a watch of the catalogue ended");
        let pause = backoff.after(began.elapsed(), &mut rng);
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn watch_once<S: Sink>(
    target: &Target,
    path: PathId,
    sink: &S,
    connecting: impl Future<Output = Result<Streams, BoxError>>,
) -> WatchError {
    match timeout(SILENCE, connecting).await {
        Ok(Ok(streams)) => match follow(target, path, sink, streams).await {
            Ok(never) => match never {},
            Err(error) => error,
        },
        Ok(Err(error)) => WatchError::Connect(error),
        Err(_) => WatchError::ConnectTimeout,
    }
}

async fn follow<S: Sink>(
    target: &Target,
    path: PathId,
    sink: &S,
    streams: Streams,
) -> Result<std::convert::Infallible, WatchError> {
    let Streams { mut incoming, outgoing } = streams;
    let (mut moved, mut ask_again) = (sink.moved(), sink.ask_again());
    let mut told = sink.positions();
    send(&outgoing, &Request::Watch(told.clone())).await?;
    let mut beat = interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard_at = Instant::now();
    let mut gap_at: Option<Instant> = None;
    // Acknowledgements wait for room beside reading: two full directions must not block each other.
    let mut owed = true;
    let mut reopen = false;
    loop {
        tokio::select! {
            message = incoming.next() => {
                let message = message.ok_or(WatchError::Ended)?.map_err(WatchError::Broken)?;
                heard_at = Instant::now();
                sink.heard(target);
                let (event, skipped) = Event::decode(message)?;
                if skipped > 0 {
                    tracing::warn!(?target, skipped, "rows of unknown kinds were skipped");
                }
                match event {
                    Event::Heartbeat => {}
                    Event::Lease(grant) => sink.leased(grant),
                    Event::Rows(part) => {
                        if sink.receive(path, part).ask_again == AskAgain::ThisPath {
                            if gap_at.is_some_and(|at| at.elapsed() < GAP_PAUSE) {
                                return Err(WatchError::Gaps);
                            }
                            gap_at = Some(Instant::now());
                            reopen = true;
                        }
                    }
                }
            }
            Ok(()) = moved.changed() => owed = true,
            Ok(()) = ask_again.changed() => reopen = true,
            _ = beat.tick() => owed = true,
            permit = outgoing.reserve(), if owed || reopen => {
                let permit = permit.map_err(|_| WatchError::Ended)?;
                if std::mem::take(&mut reopen) {
                    told = sink.positions();
                    permit.send(Request::Watch(told.clone()).encode());
                } else {
                    owed = false;
                    permit.send(Request::Ack(sink.acknowledgement(target, &mut told)).encode());
                }
            }
            () = sleep_until(heard_at + SILENCE) => return Err(WatchError::Silent),
        }
    }
}

async fn send(outgoing: &mpsc::Sender<bytes::Bytes>, request: &Request) -> Result<(), WatchError> {
    outgoing.send(request.encode()).await.map_err(|_| WatchError::Ended)
}

/// Pauses between attempts: 0.1 s doubling to 5 s, each between half and one and a half of that, so
/// that a thousand watchers do not come back in step.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);
    /// An attempt that lived this long was a success.
    const SUCCESS: Duration = Duration::from_secs(10);

    fn after(&mut self, lived: Duration, rng: &mut StdRng) -> Duration {
        if lived >= Self::SUCCESS {
            self.failures = 0;
        }
        let pause = Self::FIRST.saturating_mul(1 << self.failures.min(10)).min(Self::LONGEST);
        self.failures += 1;
        pause.mul_f64(rng.random_range(0.5..1.5))
    }
}
