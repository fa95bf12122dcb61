//! An edge whose server is being drained goes on serving, but shows its users the way out: when it is no
//! longer announced, what is still open to it arrives elsewhere and breaks.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::row::NodeState;
use tokio::sync::watch;

use crate::core::Edge;

/// How often the catalogue is asked whether the server leaves.
const REVIEW: Duration = Duration::from_millis(250);
/// How long users' next requests are waited for, which tell them to come back on another connection; then
/// idle connections are closed.
const IDLE_GRACE: Duration = Duration::from_secs(5);

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Stage {
    #[default]
    Stays,
    /// Answers say that their connection ends.
    Leaves,
    /// Connections that were idle when it began to leave are closed.
    ClosesIdle,
}

/// The stage, as everybody sees it.
pub(crate) struct Departure(watch::Sender<Stage>);

impl Default for Departure {
    fn default() -> Self {
        Self(watch::Sender::new(Stage::Stays))
    }
}

impl Departure {
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() > Stage::Stays
    }

    /// Resolves when the stage is reached. Never for who begins to wait when it is already: a connection
    /// that was opened meanwhile has its first answer before it.
    pub async fn reaches(&self, stage: Stage) {
        let mut stages = self.0.subscribe();
        if *stages.borrow() < stage && stages.wait_for(|reached| *reached >= stage).await.is_ok() {
            return;
        }
        std::future::pending().await
    }
}

/// Follows what the catalogue says of this edge's own server.
pub(crate) async fn follow(edge: Arc<Edge>) {
    let mut reviews = tokio::time::interval(REVIEW);
    let mut since = None;
    loop {
        let now = reviews.tick().await;
        let snapshot = edge.surroundings.routes.snapshot();
        let draining = snapshot.node(&edge.config.node).is_some_and(|row| row.state == NodeState::Draining);
        since = draining.then(|| since.unwrap_or(now));
        let stage = match since {
            None => Stage::Stays,
            Some(since) if now.duration_since(since) < IDLE_GRACE => Stage::Leaves,
            Some(_) => Stage::ClosesIdle,
        };
        edge.departure.0.send_if_modified(|known| std::mem::replace(known, stage) != stage);
    }
}
