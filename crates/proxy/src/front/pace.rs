//! An HTTP/2 client that keeps its window shut takes nothing and yet keeps a machine busy: while it does,
//! nobody looks at the answer's body, so the body itself cannot notice. Each stream of a connection is a
//! task here, which watches from outside and is given up together with its stream: the client gets
//! RST_STREAM (CANCEL), the machine's side is let go.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::Instant;

use crate::body::{BoxError, ClientBody};
use crate::core::Core;
use crate::errors::CLIENT_STALLED;

tokio::task_local! {
    static PACE: Arc<Pace>;
}

/// How a client takes an answer.
#[derive(Default)]
pub(super) struct Pace {
    /// Since when it has had something to take, and has not asked for more.
    offered: Mutex<Option<Instant>>,
    given_up: AtomicBool,
}

impl Pace {
    /// Of the stream that is being served; there is none outside of [`Streams`].
    pub fn current() -> Option<Arc<Self>> {
        PACE.try_with(Arc::clone).ok()
    }

    pub fn was_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    fn set_offered(&self, since: Option<Instant>) {
        *self.offered.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn offered(&self) -> Option<Instant> {
        *self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the client has taken nothing for `limit`, twice that at the latest: pieces that are
    /// taken set no timer.
    async fn stands_still(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            match self.offered() {
                Some(since) if now >= since + limit => return,
                Some(since) => tokio::time::sleep_until(since + limit).await,
                None => tokio::time::sleep(limit).await,
            }
        }
    }
}

/// Runs the streams of a connection, and gives up those whose client takes nothing for `client_write`.
#[derive(Clone)]
pub(super) struct Streams(pub Arc<Core>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (core, pace) = (self.0.clone(), Arc::<Pace>::default());
        tokio::spawn(PACE.scope(pace.clone(), async move {
            tokio::select! {
                biased;
                () = stream => {}
                () = pace.stands_still(core.edge.config.timeouts.client_write) => {
                    pace.given_up.store(true, Ordering::Relaxed);
                    core.edge.counters.failure(CLIENT_STALLED);
                }
            }
        }));
    }
}

/// A piece must be taken whole before the next is asked for, so pieces are small: a slow client is not
/// one that stands still. HTTP/2 frames are no larger unless both sides ask for it.
const PIECE: usize = 16 << 10;

/// An answer's body that tells its stream's pace: it is asked for a piece whenever there is room for one.
pub(super) struct Paced {
    body: ClientBody,
    /// Of a piece that was too large.
    rest: Bytes,
    pace: Option<Arc<Pace>>,
}

impl Paced {
    /// `pace`: of the stream; without one nobody watches.
    pub fn new(body: ClientBody, pace: Option<Arc<Pace>>) -> Self {
        let paced = Self { body, rest: Bytes::new(), pace };
        // The headers may find the window shut already.
        paced.offered(!paced.body.is_end_stream());
        paced
    }

    fn offered(&self, something: bool) {
        if let Some(pace) = &self.pace {
            pace.set_offered(something.then(Instant::now));
        }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = if this.rest.is_empty() {
            Pin::new(&mut this.body).poll_frame(context)
        } else {
            Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.rest)))))
        };
        let polled = polled.map_ok(|frame| {
            frame.map_data(|mut data| {
                this.rest = data.split_off(data.len().min(PIECE));
                data
            })
        });
        // A machine that says nothing for hours is no fault of the client's.
        this.offered(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        // The upper bound first: it may not be below the lower one.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}
