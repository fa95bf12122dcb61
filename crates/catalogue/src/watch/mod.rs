//! The protocol on tasks and channels. Transport-neutral: a watch is a stream of byte messages each
//! way, which the callers carry in whatever frames they have; who the peer is, they know from their
//! transport's identity.
//!
//! Decisions are the protocol's; here is only waiting, sending and locking. All locks are short and
//! none is held across an await.

mod barriers;
mod client;
mod edge;
mod hub;
mod publisher;
mod replica;
mod server;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

pub use barriers::{BarrierError, MemoryBook, SharedBook, keep_book, wait_for_barrier};
pub use client::{BoxError, WatchError};
pub use edge::{EdgePlace, watch_as_edge};
pub use hub::{HubHandle, watch_as_hub};
pub use publisher::Publisher;
pub use replica::ReplicaHandle;
pub use server::{ServeError, Source, serve_watch};

/// How often a server says that it lives, and a watcher that it does.
pub const HEARTBEAT: Duration = Duration::from_millis(500);

/// Messages that wait for the transport, each way of a watch.
pub const CHANNEL_MESSAGES: usize = 16;

/// A watch that was connected: what comes from the server, and where requests go.
pub struct Streams {
    pub incoming: Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>,
    pub outgoing: mpsc::Sender<Bytes>,
}

/// Shows the time since an origin of its own.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Time since this machine was booted, sleep included: a lease must not outlive a suspended host.
pub fn boot_clock() -> Clock {
    Arc::new(|| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    })
}

/// A lock whose holder panicked is taken all the same: the data behind these locks is changed only by
/// code that leaves it whole, and the process must go on serving by it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
