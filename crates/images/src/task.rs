//! Blocking work from asynchronous code, and doing one thing once for all who ask.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::StoreError;

/// Runs disk or CPU work where it may block. The work goes on to its end even if the caller is
/// dropped.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Stopping.into()),
        },
    }
}

/// Turns for work that must happen once per key: who gets its turn looks first whether someone
/// before it has done the work.
pub(crate) struct SingleFlight<K> {
    turns: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl<K> Default for SingleFlight<K> {
    fn default() -> Self {
        Self { turns: Mutex::default() }
    }
}

impl<K: Eq + Hash + Copy> SingleFlight<K> {
    /// Waits for the turn at `key`; it ends when the answer is dropped.
    pub(crate) async fn turn(&self, key: K) -> Result<OwnedSemaphorePermit, StoreError> {
        let semaphore = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            // Only the map knows a key that nobody holds or waits for.
            turns.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
            Arc::clone(turns.entry(key).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        // Nobody closes these semaphores.
        semaphore.acquire_owned().await.map_err(|_| StoreError::Stopping)
    }
}
