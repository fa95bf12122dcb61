//! When routes to the address that all places announce changed: a connection does not move with the route
//! that it was opened over. Its packets arrive at an edge that has never heard of it, which resets it; no
//! server can spare a user that, and a request on it is lost with its connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use atoll_lab::routes::RouteWatch;
use atoll_lab::world::Role;

use crate::guard::{PREFIX, is_about};
use crate::lifecycle::Announced;
use crate::load::{Shot, unix_ms};

/// A route changes a moment before or after it is noted here.
const SLACK: Duration = Duration::from_millis(250);

/// Notes every router's changes until it is dropped.
pub struct Watcher {
    /// Unix milliseconds.
    moves: Arc<Mutex<Vec<u64>>>,
    /// Ends with the watcher.
    _watching: JoinSet<()>,
}

impl Watcher {
    pub async fn begin(announced: &Announced) -> anyhow::Result<Self> {
        let moves = Arc::new(Mutex::new(Vec::new()));
        let mut watching = JoinSet::new();
        for router in announced.world.hosts.iter().filter(|host| host.role == Role::Router) {
            let mut watch = RouteWatch::begin(&announced.platform.host(&router.name)?).await?;
            let noted = moves.clone();
            watching.spawn(async move {
                while let Ok(change) = watch.next().await {
                    if is_about(&change, PREFIX.0) {
                        let at = unix_ms().saturating_sub(change.at.elapsed().as_millis() as u64);
                        lock(&noted).push(at);
                    }
                }
            });
        }
        Ok(Self { moves, _watching: watching })
    }

    /// Whether a request failed with a connection that a move had left behind.
    pub fn left_behind(&self, shot: &Shot) -> bool {
        shot.error.is_some() && over_a_move(&lock(&self.moves), shot)
    }
}

fn lock(moves: &Mutex<Vec<u64>>) -> MutexGuard<'_, Vec<u64>> {
    moves.lock().unwrap_or_else(PoisonError::into_inner)
}

fn over_a_move(moves: &[u64], shot: &Shot) -> bool {
    let slack = SLACK.as_millis() as u64;
    let ended = shot.at_ms + shot.took_ms as u64;
    // Whoever never got a connection was not left behind, however long it tried.
    shot.opened_ms.is_some_and(|opened| moves.iter().any(|at| opened <= at + slack && *at <= ended + slack))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::ShotKind;

    fn shot(opened_ms: Option<u64>, at_ms: u64, took_ms: f64) -> Shot {
        Shot { opened_ms, at_ms, took_ms, ..Shot::begun(ShotKind::GetKept) }
    }

    #[test]
    fn only_connections_from_before_a_move_are_left_behind() {
        let moves = [10_000];
        assert!(over_a_move(&moves, &shot(Some(4_000), 12_000, 5.0)), "kept, used after the move");
        assert!(over_a_move(&moves, &shot(Some(9_800), 9_790, 900.0)), "under way at the move");
        assert!(!over_a_move(&moves, &shot(Some(11_000), 11_000, 5.0)), "opened after the move");
        assert!(!over_a_move(&moves, &shot(Some(4_000), 8_000, 5.0)), "over before the move");
        assert!(!over_a_move(&moves, &shot(None, 9_000, 9_000.0)), "never connected");
        assert!(!over_a_move(&[], &shot(Some(4_000), 12_000, 5.0)));
    }
}
