//! A small platform in one process: machines are real HTTP servers on loopback addresses, nodes are
//! real edges with catalogues, workers and identities of their own.

pub mod http;
pub mod identity;
pub mod machine;
pub mod platform;
pub mod worker;

use std::time::{Duration, Instant};

/// Longest wait for anything in these tests.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `holds` returns true.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub use http::Client;
pub use machine::{App, Machine};
pub use platform::Platform;
