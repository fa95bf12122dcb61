//! To which edge each client was led, and since when: a connection does not move with the route that it
//! was opened over. Its packets arrive at an edge that has never heard of it, which resets it; no server
//! can spare a user that, and a request on it is lost with its connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use atoll_lab::Lab;
use atoll_lab::verb::Status;

use crate::load::{Shot, unix_ms};

/// A route changes a moment before or after it is noted here.
const SLACK: Duration = Duration::from_millis(250);

/// Unix milliseconds at which each client was led elsewhere.
type Moves = BTreeMap<String, Vec<u64>>;

/// Notes every client's moves until it is dropped.
pub struct Watcher {
    moves: Arc<Mutex<Moves>>,
    watching: JoinHandle<()>,
}

impl Watcher {
    pub fn begin(lab: &Lab) -> Self {
        let moves = Arc::new(Mutex::new(Moves::new()));
        let noted = moves.clone();
        let mut changes = lab.changes();
        let mut last = led_to(&changes.borrow_and_update());
        let watching = tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let now = led_to(&changes.borrow_and_update());
                let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                for (client, _) in now.iter().filter(|(client, edge)| last.get(*client) != Some(*edge)) {
                    noted.entry(client.clone()).or_default().push(unix_ms());
                }
                last = now;
            }
        });
        Self { moves, watching }
    }

    /// Whether a client's request failed with a connection that a move had left behind.
    pub fn left_behind(&self, client: &str, shot: &Shot) -> bool {
        let moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        shot.error.is_some() && moves.get(client).is_some_and(|moves| over_a_move(moves, shot))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn over_a_move(moves: &[u64], shot: &Shot) -> bool {
    let slack = SLACK.as_millis() as u64;
    let ended = shot.at_ms + shot.took_ms as u64;
    // Whoever never got a connection was not left behind, however long it tried.
    shot.opened_ms.is_some_and(|opened| moves.iter().any(|at| opened <= at + slack && *at <= ended + slack))
}

fn led_to(status: &Status) -> BTreeMap<String, Option<String>> {
    status.hosts.iter().map(|host| (host.name.clone(), host.steered_to.clone())).collect()
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
