//! A request body that can be sent again. What is read from the client is kept until the request can
//! no longer be retried, within a limit for each request and one for the whole edge.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::BoxError;

/// How many body bytes all requests of an edge may keep together.
pub(crate) struct ReplayBudget {
    free: AtomicUsize,
}

impl ReplayBudget {
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { free: AtomicUsize::new(total) })
    }

    fn take(&self, bytes: usize) -> bool {
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.free.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The client's side of a repeatable body. Each attempt reads it through a [`ReplayBody`] of its own,
/// from the beginning; a new attempt silences the one before.
pub(crate) struct Recording<B> {
    tape: Arc<Mutex<Tape<B>>>,
}

struct Tape<B> {
    source: B,
    ended: bool,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    limit: usize,
    budget: Arc<ReplayBudget>,
    trailers: Option<HeaderMap>,
    keeping: Keeping,
    attempt: u32,
    /// Bytes read from the client so far.
    passed: Arc<AtomicU64>,
    patience: Duration,
    /// Since the client is waited for.
    waiting: Option<Pin<Box<Sleep>>>,
    stalled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keeping {
    Everything,
    /// A response is on its way: nothing will be sent again.
    Released,
    /// Larger than allowed.
    Overflowed,
    /// The client broke off, or sent nothing for too long: what was kept must never be taken for the
    /// whole.
    Broken,
}

impl<B> Tape<B> {
    fn forget(&mut self, keeping: Keeping) {
        self.keeping = keeping;
        self.kept = Vec::new();
        self.budget.give_back(std::mem::take(&mut self.kept_bytes));
    }

    fn keep(&mut self, chunk: &Bytes) {
        if self.keeping != Keeping::Everything {
            return;
        }
        let fits = self.kept_bytes + chunk.len() <= self.limit && self.budget.take(chunk.len());
        if fits {
            self.kept.push(chunk.clone());
            self.kept_bytes += chunk.len();
        } else {
            self.forget(Keeping::Overflowed);
        }
    }
}

impl<B> Tape<B> {
    /// Waits for the client. Once the request is answered, silence may be what both sides want.
    fn wait(&mut self, context: &mut Context<'_>) -> PollFrame {
        if self.keeping == Keeping::Released {
            self.waiting = None;
            return Poll::Pending;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(waiting.as_mut().poll(context));
        self.stalled = true;
        self.forget(Keeping::Broken);
        Poll::Ready(Some(Err("the client sent nothing for too long".into())))
    }
}

impl<B> Drop for Tape<B> {
    fn drop(&mut self) {
        self.budget.give_back(self.kept_bytes);
    }
}

fn lock<B>(tape: &Mutex<Tape<B>>) -> MutexGuard<'_, Tape<B>> {
    // The source may panic while polled; what was kept before is still right.
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> Recording<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// `patience`: how long its next piece may take, before the request is answered.
    pub fn new(source: B, limit: usize, budget: Arc<ReplayBudget>, patience: Duration) -> Self {
        Self {
            tape: Arc::new(Mutex::new(Tape {
                source,
                ended: false,
                kept: Vec::new(),
                kept_bytes: 0,
                limit,
                budget,
                trailers: None,
                keeping: Keeping::Everything,
                attempt: 0,
                passed: Arc::default(),
                patience,
                waiting: None,
                stalled: false,
            })),
        }
    }

    /// The body for the next attempt, or `None` when some of it is gone.
    pub fn play(&self) -> Option<ReplayBody> {
        let mut tape = lock(&self.tape);
        if tape.keeping != Keeping::Everything {
            return None;
        }
        tape.attempt += 1;
        let attempt = tape.attempt;
        drop(tape);
        Some(ReplayBody { tape: self.tape.clone(), attempt, position: 0, trailers_sent: false })
    }

    /// Keeps nothing from now on: the request will not be sent again.
    pub fn release(&self) {
        let mut tape = lock(&self.tape);
        if tape.keeping == Keeping::Everything {
            // What the present attempt has not read yet must stay readable.
            tape.keeping = Keeping::Released;
        }
    }

    /// Whether all that was read of it can be sent again.
    pub fn is_whole(&self) -> bool {
        lock(&self.tape).keeping == Keeping::Everything
    }

    pub fn overflowed(&self) -> bool {
        lock(&self.tape).keeping == Keeping::Overflowed
    }

    /// The client sent nothing for too long.
    pub fn stalled(&self) -> bool {
        lock(&self.tape).stalled
    }

    /// Counts the bytes read from the client; goes on after this recording is gone.
    pub fn passed(&self) -> Arc<AtomicU64> {
        lock(&self.tape).passed.clone()
    }
}

/// One attempt's view of a [`Recording`].
pub(crate) struct ReplayBody {
    tape: Arc<Mutex<dyn Play>>,
    attempt: u32,
    /// Index of the next kept chunk.
    position: usize,
    trailers_sent: bool,
}

/// The reading side of a tape, without the type of its source.
trait Play: Send {
    fn poll(&mut self, reader: &mut Reader<'_>, context: &mut Context<'_>) -> PollFrame;
    fn at_end(&self, attempt: u32, position: usize) -> bool;
    fn remaining(&self, attempt: u32, position: usize) -> SizeHint;
}

type PollFrame = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

struct Reader<'a> {
    attempt: u32,
    position: &'a mut usize,
    trailers_sent: &'a mut bool,
}

impl<B> Play for Tape<B>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, reader: &mut Reader<'_>, context: &mut Context<'_>) -> PollFrame {
        if reader.attempt != self.attempt {
            return Poll::Ready(Some(Err("a later attempt reads this body".into())));
        }
        if self.keeping == Keeping::Broken {
            return Poll::Ready(Some(Err("the client broke off its body".into())));
        }
        if let Some(chunk) = self.kept.get(*reader.position) {
            let chunk = chunk.clone();
            *reader.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if self.keeping == Keeping::Released && !self.kept.is_empty() {
            self.forget(Keeping::Released);
            *reader.position = 0;
        }
        if !self.ended {
            let polled = Pin::new(&mut self.source).poll_frame(context);
            if polled.is_ready() {
                self.waiting = None;
            }
            match polled {
                Poll::Pending => return self.wait(context),
                Poll::Ready(Some(Err(error))) => {
                    self.forget(Keeping::Broken);
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(chunk) => {
                        self.passed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                        self.keep(&chunk);
                        // An overflow has emptied the list.
                        *reader.position = self.kept.len();
                        return Poll::Ready(Some(Ok(Frame::data(chunk))));
                    }
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.ended = true;
                    }
                },
                Poll::Ready(None) => self.ended = true,
            }
        }
        match &self.trailers {
            Some(trailers) if !*reader.trailers_sent => {
                *reader.trailers_sent = true;
                Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))))
            }
            _ => Poll::Ready(None),
        }
    }

    fn at_end(&self, attempt: u32, position: usize) -> bool {
        let source_done = self.ended || self.source.is_end_stream();
        attempt == self.attempt && source_done && self.trailers.is_none() && position >= self.kept.len()
    }

    fn remaining(&self, attempt: u32, position: usize) -> SizeHint {
        if attempt != self.attempt {
            return SizeHint::default();
        }
        let kept: u64 = self.kept.iter().skip(position).map(|chunk| chunk.len() as u64).sum();
        let source = if self.ended { SizeHint::with_exact(0) } else { self.source.size_hint() };
        let mut hint = SizeHint::new();
        hint.set_lower(source.lower() + kept);
        if let Some(upper) = source.upper() {
            hint.set_upper(upper + kept);
        }
        hint
    }
}

impl ReplayBody {
    fn lock(&self) -> MutexGuard<'_, dyn Play + 'static> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> PollFrame {
        let this = self.get_mut();
        let mut reader =
            Reader { attempt: this.attempt, position: &mut this.position, trailers_sent: &mut this.trailers_sent };
        this.tape.lock().unwrap_or_else(PoisonError::into_inner).poll(&mut reader, context)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().at_end(self.attempt, self.position)
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().remaining(self.attempt, self.position)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    type Frames = futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, std::io::Error>>>;

    fn recording(chunks: &[&'static str], limit: usize, budget: &Arc<ReplayBudget>) -> Recording<StreamBody<Frames>> {
        let frames: Vec<_> = chunks.iter().map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes())))).collect();
        Recording::new(StreamBody::new(futures_util::stream::iter(frames)), limit, budget.clone(), PATIENCE)
    }

    const PATIENCE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_silent_client_is_given_up_only_until_the_request_is_answered() {
        type Silence = futures_util::stream::Pending<Result<Frame<Bytes>, std::io::Error>>;
        let silent = || {
            let source = StreamBody::new(futures_util::stream::pending() as Silence);
            Recording::new(source, 100, ReplayBudget::new(100), PATIENCE)
        };
        let unanswered = silent();
        assert!(unanswered.play().unwrap().frame().await.unwrap().is_err());
        assert!(unanswered.stalled() && !unanswered.is_whole());
        let answered = silent();
        let mut body = answered.play().unwrap();
        answered.release();
        assert!(tokio::time::timeout(PATIENCE * 3, body.frame()).await.is_err());
        assert!(!answered.stalled());
    }

    async fn text(body: ReplayBody) -> String {
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_body_can_be_sent_twice_from_any_point_of_the_first_time() {
        for read_first in 0..4 {
            let budget = ReplayBudget::new(100);
            let recording = recording(&["ab", "cd", "ef"], 100, &budget);
            let mut first = recording.play().unwrap();
            for _ in 0..read_first {
                first.frame().await;
            }
            assert_eq!(text(recording.play().unwrap()).await, "abcdef");
            assert!(first.frame().await.unwrap().is_err(), "the earlier attempt went on reading");
        }
    }

    #[tokio::test]
    async fn a_large_body_passes_whole_but_only_once() {
        let budget = ReplayBudget::new(100);
        let recording = recording(&["ab", "cd", "ef"], 5, &budget);
        assert_eq!(text(recording.play().unwrap()).await, "abcdef");
        assert!(recording.overflowed());
        assert!(recording.play().is_none());
        assert_eq!(budget.free.load(Ordering::Relaxed), 100);
    }

    #[tokio::test]
    async fn a_body_that_broke_off_is_never_taken_for_a_whole_one() {
        let budget = ReplayBudget::new(100);
        let frames = vec![Ok(Frame::data(Bytes::from_static(b"ab"))), Err(std::io::Error::other("gone"))];
        let recording = Recording::new(StreamBody::new(futures_util::stream::iter(frames)), 100, budget, PATIENCE);
        let mut first = recording.play().unwrap();
        assert!(first.frame().await.unwrap().is_ok());
        assert!(first.frame().await.unwrap().is_err());
        assert!(first.frame().await.unwrap().is_err());
        assert!(!recording.is_whole() && recording.play().is_none());
    }

    #[tokio::test]
    async fn all_bodies_share_one_budget_and_return_it() {
        let budget = ReplayBudget::new(6);
        let one = recording(&["abcd"], 100, &budget);
        let two = recording(&["efgh"], 100, &budget);
        assert_eq!(text(one.play().unwrap()).await, "abcd");
        assert_eq!(text(two.play().unwrap()).await, "efgh");
        assert!(!one.overflowed());
        assert!(two.overflowed());
        drop(one);
        assert_eq!(budget.free.load(Ordering::Relaxed), 6);
    }

    #[tokio::test]
    async fn release_keeps_what_the_present_attempt_still_has_to_send() {
        let budget = ReplayBudget::new(100);
        let recording = recording(&["ab", "cd", "ef"], 100, &budget);
        let mut first = recording.play().unwrap();
        first.frame().await;
        first.frame().await;
        let second = recording.play().unwrap();
        recording.release();
        assert_eq!(text(second).await, "abcdef");
        assert!(recording.play().is_none());
        assert_eq!(budget.free.load(Ordering::Relaxed), 100);
    }
}
