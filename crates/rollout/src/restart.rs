//! Whether a machine whose process ended is started again, and when.

use std::time::Duration;

use atoll_model::config::{Restart, RestartPolicy};

/// Restarts older than this are forgotten.
pub const WINDOW: Duration = Duration::from_secs(5 * 60);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// How a machine's main process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    pub code: i32,
    /// Somebody asked the machine to stop.
    pub requested: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The machine stays stopped: that was the wish, or its policy.
    Stay,
    After(Duration),
    /// The machine stays stopped: it failed too often.
    GiveUp {
        retries: u32,
    },
}

/// `restarts_ms` are the Unix milliseconds of earlier restarts, in any order.
pub fn decide(policy: &Restart, exit: Exit, restarts_ms: &[u64], now_ms: u64) -> Decision {
    let wanted = match policy.policy() {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure => exit.code != 0,
        RestartPolicy::Always => true,
    };
    if exit.requested || !wanted {
        return Decision::Stay;
    }
    let window_ms = WINDOW.as_millis() as u64;
    let recent = restarts_ms.iter().filter(|at| now_ms.saturating_sub(**at) < window_ms).count();
    let recent = u32::try_from(recent).unwrap_or(u32::MAX);
    // `always` means always; only its pace is limited.
    if policy.policy() == RestartPolicy::OnFailure && recent >= policy.max_retries() {
        return Decision::GiveUp { retries: recent };
    }
    Decision::After(FIRST_DELAY.saturating_mul(1 << recent.min(16)).min(LONGEST_DELAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(policy: RestartPolicy, max_retries: u32) -> Restart {
        Restart { policy: Some(policy), max_retries: Some(max_retries) }
    }

    const CRASH: Exit = Exit { code: 1, requested: false };

    #[test]
    fn the_policy_is_kept() {
        let clean = Exit { code: 0, requested: false };
        let decided = |p, exit| decide(&policy(p, 0), exit, &[], 0);
        assert_eq!(decided(RestartPolicy::No, CRASH), Decision::Stay);
        assert_eq!(decided(RestartPolicy::OnFailure, clean), Decision::Stay);
        assert_eq!(decided(RestartPolicy::OnFailure, CRASH), Decision::After(FIRST_DELAY));
        assert_eq!(decided(RestartPolicy::Always, clean), Decision::After(FIRST_DELAY));
        assert_eq!(decided(RestartPolicy::Always, Exit { requested: true, ..CRASH }), Decision::Stay);
    }

    #[test]
    fn retries_are_counted_within_the_window() {
        let on_failure = policy(RestartPolicy::OnFailure, 3);
        let now = 1_000_000;
        let recent = [now - 1, now - 2, now - 3];
        assert_eq!(decide(&on_failure, CRASH, &recent, now), Decision::GiveUp { retries: 3 });
        assert!(matches!(decide(&policy(RestartPolicy::Always, 3), CRASH, &recent, now), Decision::After(_)));
        let old = [now - 1, now - 2, now - 300_000];
        assert_eq!(decide(&on_failure, CRASH, &old, now), Decision::After(Duration::from_millis(400)));
    }

    #[test]
    fn delays_grow_to_a_limit() {
        let always = policy(RestartPolicy::Always, 0);
        let delays: Vec<Decision> = (0..40).map(|n| decide(&always, CRASH, &vec![5; n], 10)).collect();
        assert!(delays.windows(2).all(|pair| matches!(pair, [Decision::After(a), Decision::After(b)] if a <= b)));
        assert_eq!(delays[39], Decision::After(LONGEST_DELAY));
    }
}
