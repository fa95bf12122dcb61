//! Waiting for what will hold soon: asked again and again until a limit, never slept for.

use std::time::{Duration, Instant};

use anyhow::Context;

const PAUSE: Duration = Duration::from_millis(50);

/// Asks until the answer is good, and says after how long.
///
/// # Errors
/// The last bad answer, once the limit has passed.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok((answer, start.elapsed())),
            Err(error) if start.elapsed() >= limit => {
                return Err(error).with_context(|| format!("not within {limit:?}: {what}"));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
