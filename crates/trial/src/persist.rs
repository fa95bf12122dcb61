//! Somebody who tries the same thing again and again, and keeps count of how it went.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::faults::Attempt;
use crate::load::unix_ms;

/// Longer than any try may take that is answered at all.
const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is tried once more after the end when it still fails.
const LAST_TRIES: usize = 100;

/// Tries until `over` says so, and then until it works.
pub async fn persist(over: &Cell<bool>, mut attempt: impl AsyncFnMut() -> anyhow::Result<()>) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut left = LAST_TRIES;
    loop {
        let began_ms = unix_ms();
        let began = Instant::now();
        let outcome = match tokio::time::timeout(LIMIT, attempt()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("nothing within {LIMIT:?}")),
        };
        let error = outcome.err().map(|error| format!("{error:#}"));
        let failed = error.is_some();
        attempts.push(Attempt { began_ms, took: began.elapsed(), error });
        if over.get() {
            if !failed || left == 0 {
                return attempts;
            }
            left -= 1;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
