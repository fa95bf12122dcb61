//! What follows when a machine ended unasked: the restart policy's decision, joined with
//! `auto_destroy`. Pure.

use atoll_model::MachineConfig;
use atoll_rollout::restart::{Decision, Exit, decide};

use super::step::Verdict;

pub use atoll_rollout::restart::WINDOW;

/// The verdict on an end with `code`, given the moments of earlier restarts (Unix ms).
pub fn verdict(config: &MachineConfig, code: i32, restarts_ms: &[u64], now_ms: u64) -> Verdict {
    match decide(&config.restart, Exit { code, requested: false }, restarts_ms, now_ms) {
        Decision::After(wait) => Verdict::RestartAfter { ms: wait.as_millis() as u64 },
        Decision::Stay | Decision::GiveUp { .. } if config.auto_destroy => Verdict::Remove,
        Decision::Stay | Decision::GiveUp { .. } => Verdict::StayDown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_destroy_comes_when_the_policy_has_given_up() {
        let config: MachineConfig = serde_json::from_str(r#"{"image":"a","auto_destroy":true}"#).unwrap();
        assert!(matches!(verdict(&config, 1, &[], 0), Verdict::RestartAfter { .. }));
        assert_eq!(verdict(&config, 1, &[0; 10], 1), Verdict::Remove);
        assert_eq!(verdict(&config, 0, &[], 0), Verdict::Remove);
        assert_eq!(verdict(&MachineConfig::default(), 0, &[], 0), Verdict::StayDown);
    }
}
