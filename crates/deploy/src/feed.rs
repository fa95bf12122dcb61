//! Following a deploy by its events, from any process over the same records.

use std::collections::VecDeque;
use std::sync::Arc;

use atoll_model::AppName;
use atoll_model::wire::DeployEvent;
use atoll_store::StoreError;
use tokio::sync::watch;

use crate::engine::{Engine, FOLLOW_EVERY};
use crate::narrate::Note;
use crate::status::known_end;

/// Read at a time.
const BATCH: u32 = 200;

/// The events of a release, in order and without gaps, until the last one.
pub struct EventFeed {
    engine: Arc<Engine>,
    app: AppName,
    version: u64,
    /// Number of the last event read; they count from 1.
    read: u64,
    buffer: VecDeque<DeployEvent>,
    written: watch::Receiver<u64>,
    is_over: bool,
}

impl EventFeed {
    /// `after`: the index of the first event to show.
    pub(crate) fn new(engine: Arc<Engine>, app: AppName, version: u64, after: u64) -> Self {
        let written = engine.subscribe();
        Self {
            engine,
            app,
            version,
            read: after.min(u64::from(u32::MAX)),
            buffer: VecDeque::new(),
            written,
            is_over: false,
        }
    }

    /// The next event, as soon as there is one; `None` after the last. May be dropped and called
    /// again without losing one.
    pub async fn next(&mut self) -> Result<Option<DeployEvent>, StoreError> {
        loop {
            if let Some(event) = self.buffer.pop_front() {
                return Ok(Some(event));
            }
            if self.is_over {
                return Ok(None);
            }
            self.written.mark_unchanged();
            if self.read().await? {
                continue;
            }
            // The time limit is for writers elsewhere.
            let change = tokio::time::timeout(FOLLOW_EVERY, self.written.changed()).await;
            drop(change);
        }
    }

    /// Whether there was anything.
    async fn read(&mut self) -> Result<bool, StoreError> {
        let (app, version, after) = (&self.app, self.version, self.read);
        let (release, events) = self
            .engine
            .store
            .read(|tx| async move {
                // In this order: when the release is over, no event can follow those read then.
                let release = tx.release_fetch_version(app, version).await?;
                let events = tx.deploy_events(&release.id, after, BATCH).await?;
                Ok::<_, StoreError>((release, events))
            })
            .await?;
        for record in events {
            let note: Note = serde_json::from_value(record.event)
                .map_err(|source| StoreError::Decode { column: "event", source: source.into() })?;
            self.is_over |= note.kind.is_last();
            self.read = record.number;
            self.buffer.push_back(note.into_event(record.number, record.at_ms));
        }
        if self.buffer.is_empty() && release.status.is_final() {
            // It was over before it was begun, or the caller has seen all and asks again.
            let (kind, text) = known_end(&release);
            self.buffer.push_back(Note::general(kind, text).into_event(self.read + 1, release.updated_at_ms));
            self.is_over = true;
        }
        Ok(!self.buffer.is_empty())
    }
}
