//! Barriers on tasks: each control process keeps its registration and its answers in the shared
//! book, and whoever opened a barrier waits for it to be closed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::BoxError;
use super::hub::HubHandle;
use super::lock;
use crate::protocol::barrier::{BarrierId, Book, HubId, OpenBarrier, Roster, Target};
use crate::protocol::hub::Standing;

/// How often a hub renews its registration.
const RENEWAL: Duration = Duration::from_secs(1);
/// How often an open barrier is looked at when nothing else stirs.
const REVIEW: Duration = Duration::from_millis(50);
/// How often the book is read for barriers that another control process opened.
const READ: Duration = Duration::from_millis(200);

/// The book where all control processes see it. Each call is one serializable transaction with the
/// meaning of the method of the same name of [`Book`]; it must outlive the processes.
#[async_trait]
pub trait SharedBook: Send + Sync {
    async fn read(&self) -> Result<Book, BoxError>;
    /// Renews, and shows the book as it is then.
    async fn renew(&self, hub: HubId) -> Result<Book, BoxError>;
    async fn open(&self, target: &Target) -> Result<BarrierId, BoxError>;
    async fn pass(&self, barrier: BarrierId, hub: HubId) -> Result<(), BoxError>;
    async fn close(&self, barrier: BarrierId, gone: &[(HubId, u64)]) -> Result<bool, BoxError>;
    /// Nobody waits for the barrier any more.
    async fn give_up(&self, barrier: BarrierId) -> Result<(), BoxError>;
}

/// Why a barrier was not closed.
#[derive(Debug, thiserror::Error)]
pub enum BarrierError {
    #[error("{} is not served by every leased edge after {waited:?}: {standing:?}", target.key)]
    TimedOut { target: Box<Target>, waited: Duration, standing: Standing },
    #[error("{} was refused: {standing:?}", target.key)]
    Refused { target: Box<Target>, standing: Standing },
    #[error("{} is void: its owner was fenced or began a new epoch", target.key)]
    Void { target: Box<Target> },
    #[error("the book of barriers cannot be used")]
    Book(#[source] BoxError),
}

/// Waits until every leased edge serves by the target, for `limit` at most.
pub async fn wait_for_barrier(
    hub: &HubHandle,
    book: &dyn SharedBook,
    target: &Target,
    limit: Duration,
) -> Result<(), BarrierError> {
    let id = book.open(target).await.map_err(BarrierError::Book)?;
    let result = wait_until_closed(hub, book, id, target, limit).await;
    if result.is_err() {
        // Best effort: an abandoned record only costs the hubs a look.
        if let Err(error) = book.give_up(id).await {
            tracing::warn!(error = &*error as &dyn std::error::Error, "an abandoned barrier stays in the book");
        }
    }
    result
}

async fn wait_until_closed(
    hub: &HubHandle,
    book: &dyn SharedBook,
    id: BarrierId,
    target: &Target,
    limit: Duration,
) -> Result<(), BarrierError> {
    let began = Instant::now();
    let mut acknowledged = hub.acknowledgements();
    let mut roster = Roster::default();
    loop {
        let seen = book.read().await.map_err(BarrierError::Book)?;
        roster.observe(&seen.hubs, hub.now());
        let standing = hub.stand(target);
        match standing {
            Standing::Void => return Err(BarrierError::Void { target: target.clone().into() }),
            Standing::Refused(_) => {
                return Err(BarrierError::Refused { target: target.clone().into(), standing });
            }
            Standing::Passed => {
                book.pass(id, hub.id()).await.map_err(BarrierError::Book)?;
                if book.close(id, &roster.gone(hub.now())).await.map_err(BarrierError::Book)? {
                    return Ok(());
                }
            }
            Standing::NotHere | Standing::Waiting(_) => {}
        }
        if began.elapsed() >= limit {
            return Err(BarrierError::TimedOut { target: target.clone().into(), waited: limit, standing });
        }
        stirred(&mut acknowledged, (began + limit).min(Instant::now() + REVIEW)).await;
    }
}

async fn stirred(acknowledged: &mut watch::Receiver<u64>, latest: Instant) {
    tokio::select! {
        // The hub outlives its waiters, so the sender is there.
        Ok(()) = acknowledged.changed() => {}
        () = sleep_until(latest) => {}
    }
}

/// Keeps this hub registered and answers other control processes' barriers, until `stop`. Without
/// it the hub grants no leases.
pub async fn keep_book(hub: HubHandle, book: Arc<dyn SharedBook>, stop: CancellationToken) {
    let mut renewal = interval(RENEWAL);
    let mut read = interval(READ);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    read.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let result = tokio::select! {
            () = stop.cancelled() => return,
            _ = renewal.tick() => renew(&hub, &*book).await,
            _ = read.tick() => answer(&hub, &*book).await,
        };
        if let Err(error) = result {
            tracing::warn!(error = &*error as &dyn std::error::Error, "the book of barriers cannot be used");
        }
    }
}

async fn renew(hub: &HubHandle, book: &dyn SharedBook) -> Result<(), BoxError> {
    let begun = hub.now();
    let seen = book.renew(hub.id()).await?;
    hub.registered(begun, &seen.closed);
    Ok(())
}

async fn answer(hub: &HubHandle, book: &dyn SharedBook) -> Result<(), BoxError> {
    let seen = book.read().await?;
    for open in seen.open.iter().filter(|open| !open.passed.contains(&hub.id())) {
        if hub.stand(&open.target) == Standing::Passed {
            book.pass(open.id, hub.id()).await?;
        }
    }
    Ok(())
}

/// A book in memory, for tests of several hubs in one process. It forgets with the process, and is
/// therefore no book for a control process that may be restarted.
#[derive(Default)]
pub struct MemoryBook {
    book: Mutex<(Book, u64)>,
}

#[async_trait]
impl SharedBook for MemoryBook {
    async fn read(&self) -> Result<Book, BoxError> {
        Ok(lock(&self.book).0.clone())
    }

    async fn renew(&self, hub: HubId) -> Result<Book, BoxError> {
        let mut book = lock(&self.book);
        book.0.renew(hub);
        Ok(book.0.clone())
    }

    async fn open(&self, target: &Target) -> Result<BarrierId, BoxError> {
        let mut book = lock(&self.book);
        book.1 += 1;
        let id = BarrierId(book.1);
        book.0.open.push(OpenBarrier { id, target: target.clone(), passed: Vec::new() });
        Ok(id)
    }

    async fn pass(&self, barrier: BarrierId, hub: HubId) -> Result<(), BoxError> {
        lock(&self.book).0.pass(barrier, hub);
        Ok(())
    }

    async fn close(&self, barrier: BarrierId, gone: &[(HubId, u64)]) -> Result<bool, BoxError> {
        Ok(lock(&self.book).0.close(barrier, gone))
    }

    async fn give_up(&self, barrier: BarrierId) -> Result<(), BoxError> {
        lock(&self.book).0.open.retain(|open| open.id != barrier);
        Ok(())
    }
}
