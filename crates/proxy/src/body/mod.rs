//! Bodies on their way through the edge: towards a machine (repeatable while a retry is possible) and
//! towards the client (counted, with what must happen at its end). Frames are passed on as they come,
//! one at a time: a slow reader slows the writer.

mod downstream;
mod replay;

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

pub(crate) use downstream::{AtEnd, ClientBody};
pub(crate) use replay::{Recording, ReplayBody, ReplayBudget};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body as sent to a machine or to another edge.
pub(crate) enum RequestBody {
    Empty,
    /// Passed on once, not kept.
    Direct(Incoming),
    /// Kept for a retry as it passes.
    Replay(ReplayBody),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Direct(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Replay(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Direct(body) => body.is_end_stream(),
            Self::Replay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Direct(body) => body.size_hint(),
            Self::Replay(body) => body.size_hint(),
        }
    }
}
