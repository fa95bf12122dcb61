//! All that a machine, a node or a neighbour may not send.

use crate::host::on_a_host;
use crate::isolation::{Rules, attempt_all};

#[test]
fn nothing_leaks() {
    on_a_host(|state| async move {
        let outcome = attempt_all(state, Rules::InForce).await;
        assert!(outcome.blind.is_empty(), "what is allowed was not seen:\n{}", outcome.blind.join("\n"));
        assert!(outcome.leaks.is_empty(), "of {} attempts:\n{}", outcome.attempts, outcome.leaks.join("\n"));
        assert!(outcome.attempts > 500, "only {} attempts were made", outcome.attempts);
    });
}

/// Attempts that could not succeed anyhow would prove nothing.
#[test]
fn without_rules_the_same_attempts_leak() {
    on_a_host(|state| async move {
        let outcome = attempt_all(state, Rules::Lifted).await;
        println!("{} of {} attempts leak:\n{}", outcome.leaks.len(), outcome.attempts, outcome.leaks.join("\n"));
        assert!(outcome.leaks.len() > 200, "only {} leaks", outcome.leaks.len());
    });
}
