//! How much one source may ask: token buckets in a table of fixed size. Sources that share a bucket by
//! chance share its allowance; which ones do depends on a secret key, so nobody can choose to.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Instant;

use crate::wire::mask;

/// Buckets of a table; at 12 bytes each.
const BUCKETS: usize = 1 << 14;
/// Of answers beyond the allowance, one in so many says "ask over TCP", so that a client whose address
/// another one abuses still gets through.
const SLIP: u32 = 2;

/// What each source may have.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Allowance {
    /// Answers each second, in the long run.
    pub per_second: u32,
    /// Answers at once.
    pub burst: u32,
    /// Leading bits of an address that make a source.
    pub ipv4_prefix: u8,
    pub ipv6_prefix: u8,
}

impl Allowance {
    /// For everybody on the internet, where sources are easily forged.
    pub const PUBLIC: Self = Self { per_second: 200, burst: 1000, ipv4_prefix: 24, ipv6_prefix: 56 };
    /// For each machine in a private network.
    pub const PRIVATE: Self = Self { per_second: 2000, burst: 10_000, ipv4_prefix: 32, ipv6_prefix: 112 };
    /// For measuring.
    pub const UNBOUNDED: Self = Self { per_second: u32::MAX, burst: u32::MAX, ipv4_prefix: 0, ipv6_prefix: 0 };
}

/// What becomes of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Send,
    /// Send it without records, so that the client asks over TCP.
    Truncate,
    Drop,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// What was used of the burst.
    used: f32,
    /// Milliseconds since the table was made.
    at_ms: u32,
    refused: u32,
}

/// The buckets of one socket.
pub struct Limiter {
    allowance: Allowance,
    buckets: Box<[Bucket]>,
    hasher: RandomState,
    began: Instant,
}

impl Limiter {
    pub fn new(allowance: Allowance, now: Instant) -> Self {
        let buckets = vec![Bucket::default(); BUCKETS].into_boxed_slice();
        Self { allowance, buckets, hasher: RandomState::new(), began: now }
    }

    /// Judges one answer to a source.
    pub fn judge(&mut self, source: IpAddr, now: Instant) -> Verdict {
        let Allowance { per_second, burst, ipv4_prefix, ipv6_prefix } = self.allowance;
        if per_second == u32::MAX {
            return Verdict::Send;
        }
        let prefix = if source.is_ipv4() { ipv4_prefix } else { ipv6_prefix };
        let index = self.hasher.hash_one(mask(source, prefix)) as usize % self.buckets.len();
        let bucket = &mut self.buckets[index];
        // Wraps after 49 days, when a bucket may seem young: it then has a little less for once.
        let at_ms = now.saturating_duration_since(self.began).as_millis() as u32;
        let earned = at_ms.wrapping_sub(bucket.at_ms) as f32 / 1e3 * per_second as f32;
        bucket.used = (bucket.used - earned).max(0.0);
        bucket.at_ms = at_ms;
        if bucket.used < burst as f32 {
            bucket.used += 1.0;
            return Verdict::Send;
        }
        bucket.refused = bucket.refused.wrapping_add(1);
        if bucket.refused.is_multiple_of(SLIP) { Verdict::Truncate } else { Verdict::Drop }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_source_gets_its_burst_then_its_rate_and_others_are_not_hurt() {
        let began = Instant::now();
        let allowance = Allowance { per_second: 10, burst: 20, ipv4_prefix: 24, ipv6_prefix: 56 };
        let mut limiter = Limiter::new(allowance, began);
        let noisy: IpAddr = "192.0.2.1".parse().unwrap();
        let sent = |limiter: &mut Limiter, source, now| {
            (0..100).filter(|_| limiter.judge(source, now) == Verdict::Send).count()
        };
        assert_eq!(sent(&mut limiter, noisy, began), 20);
        // The neighbour is the same source.
        assert_eq!(sent(&mut limiter, "192.0.2.200".parse().unwrap(), began), 0);
        assert_eq!(sent(&mut limiter, noisy, began + Duration::from_secs(1)), 10);
        assert_eq!(sent(&mut limiter, noisy, began + Duration::from_secs(60)), 20);
        assert_eq!(limiter.judge("2001:db8::1".parse().unwrap(), began), Verdict::Send);
    }

    #[test]
    fn half_of_what_is_too_much_is_told_to_use_tcp() {
        let began = Instant::now();
        let allowance = Allowance { per_second: 1, burst: 1, ipv4_prefix: 32, ipv6_prefix: 128 };
        let mut limiter = Limiter::new(allowance, began);
        let verdicts: Vec<_> = (0..5).map(|_| limiter.judge("192.0.2.1".parse().unwrap(), began)).collect();
        use Verdict::{Drop, Send, Truncate};
        assert_eq!(verdicts, [Send, Drop, Truncate, Drop, Truncate]);
    }
}
