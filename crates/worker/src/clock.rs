//! The one door for wall time and for ids made of time and chance.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use atoll_model::EventId;

/// Wall time. Timers use tokio's clock instead.
pub trait Clock: Send + Sync {
    /// Unix milliseconds.
    fn now_ms(&self) -> u64;
}

/// The host's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        // A clock before 1970 reads as 1970.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}

/// Makes event ids that grow, lease nonces and boot ids.
pub struct Mint {
    inner: Mutex<MintState>,
}

struct MintState {
    rng: StdRng,
    last_event: (u64, u128),
}

/// The random part of a ULID has 80 bits.
const RANDOM_MASK: u128 = (1 << 80) - 1;

impl Mint {
    pub fn new(seed: u64) -> Self {
        Self { inner: Mutex::new(MintState { rng: StdRng::seed_from_u64(seed), last_event: (0, 0) }) }
    }

    /// An id greater than every one before it, even within one millisecond or when the clock is set back.
    pub fn event(&self, now_ms: u64) -> EventId {
        let mut state = self.lock();
        let random: u128 = state.rng.random();
        let (last_ms, last_random) = state.last_event;
        state.last_event = if now_ms > last_ms {
            // The top bit stays clear, so that there is room to count upwards.
            (now_ms, random & (RANDOM_MASK >> 1))
        } else {
            (last_ms, last_random + 1)
        };
        let (ms, random) = state.last_event;
        EventId::from_parts(ms, random)
    }

    /// 12 lower-case hex characters.
    pub fn nonce(&self) -> String {
        format!("{:012x}", self.lock().rng.next_u64() >> 16)
    }

    /// 32 lower-case hex characters.
    pub fn boot_id(&self) -> String {
        format!("{:032x}", self.lock().rng.random::<u128>())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, MintState> {
        // The state is valid after any panic: each field is replaced whole.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// RFC 3339 with milliseconds, in UTC.
pub fn rfc3339_ms(unix_ms: u64) -> String {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(String::new, |time| format!("{time:.3}"))
}

/// RFC 3339 to the second, in UTC.
pub fn rfc3339(unix_seconds: u64) -> String {
    i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(String::new, |time| format!("{time:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_grow_even_when_the_clock_does_not() {
        let mint = Mint::new(7);
        let ids: Vec<_> = [5, 5, 4, 6, 6, 1].iter().map(|ms| mint.event(*ms)).collect();
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    }

    #[test]
    fn times_read_as_the_api_writes_them() {
        assert_eq!(rfc3339_ms(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(Mint::new(1).nonce().len(), 12);
    }
}
