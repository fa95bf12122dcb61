//! The body of an answer on its way to a client or to another edge.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::BoxError;

/// Held by a body for as long as it flows. Dropping it says that the exchange is over.
pub(crate) trait AtEnd: Send + Sync + 'static {
    /// Bytes just passed on.
    fn passed(&mut self, bytes: usize);

    /// The body came to its proper end.
    fn complete(&mut self);
}

/// An answer's body: one of the edge's own, or one passed through.
pub(crate) struct ClientBody {
    source: Source,
    at_end: Option<Box<dyn AtEnd>>,
}

enum Source {
    Own(Full<Bytes>),
    Passed(Incoming),
    /// Passed through once already inside this edge, with its own guard.
    Nested(Box<ClientBody>),
}

impl ClientBody {
    pub fn own(bytes: Bytes) -> Self {
        Self { source: Source::Own(Full::new(bytes)), at_end: None }
    }

    pub fn empty() -> Self {
        Self::own(Bytes::new())
    }

    pub fn passed(body: Incoming, at_end: Box<dyn AtEnd>) -> Self {
        Self { source: Source::Passed(body), at_end: Some(at_end) }.settled()
    }

    /// The same body, with one more guard around it.
    pub fn guarded(self, at_end: Box<dyn AtEnd>) -> Self {
        Self { source: Source::Nested(Box::new(self)), at_end: Some(at_end) }.settled()
    }

    /// A body without content is at its end before anybody reads it.
    fn settled(mut self) -> Self {
        if self.is_end_stream() {
            self.finish();
        }
        self
    }

    fn finish(&mut self) {
        if let Some(mut at_end) = self.at_end.take() {
            at_end.complete();
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Own(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Source::Passed(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Source::Nested(body) => Pin::new(&mut **body).poll_frame(context),
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(at_end), Some(data)) = (&mut this.at_end, frame.data_ref()) {
                    at_end.passed(data.len());
                }
                // The last frame is often known to be the last: the machine is free from then on.
                if this.is_end_stream() {
                    this.finish();
                }
            }
            Poll::Ready(None) => this.finish(),
            Poll::Ready(Some(Err(_))) => this.at_end = None,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Passed(body) => body.is_end_stream(),
            Source::Nested(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Passed(body) => body.size_hint(),
            Source::Nested(body) => body.size_hint(),
        }
    }
}
