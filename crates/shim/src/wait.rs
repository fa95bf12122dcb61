//! Waiting for what the kernel does in its own time and announces to nobody.

use std::time::{Duration, Instant};

/// Asks until the answer is yes; `false` when `limit` has passed. Asks at once, then with growing
/// pauses.
pub fn until(limit: Duration, mut answer: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(100);
    loop {
        if answer() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
