//! How much of what machines, nodes and neighbours may not send arrives anywhere: the attempts of the
//! worker's tests, counted.

// By their paths, so that test and bench try the same.
#[path = "../../crates/worker/tests/host/mod.rs"]
mod host;
#[path = "../../crates/worker/tests/network/neighbour.rs"]
mod neighbour;
#[path = "../../crates/worker/tests/isolation/mod.rs"]
mod tried;

use std::sync::mpsc;

use anyhow::{Context, ensure};

use self::tried::{Outcome, Rules, attempt_all};
use crate::figure::{Figure, Figures};

pub fn run() -> anyhow::Result<Figures> {
    let outcome = on_a_host(Rules::InForce)?;
    let lifted = on_a_host(Rules::Lifted)?;
    ensure!(outcome.blind.is_empty(), "what is allowed was not seen:\n{}", outcome.blind.join("\n"));
    for leak in &outcome.leaks {
        eprintln!("leak: {leak}");
    }
    let count = |number: usize| number as f64;
    Ok(vec![
        ("attempts", Figure::new(count(outcome.attempts), "attempts")),
        ("leaks", Figure::new(count(outcome.leaks.len()), "attempts").held_to(0.0, 0.0)),
        ("leaks_without_rules", Figure::new(count(lifted.leaks.len()), "attempts")),
    ])
}

fn on_a_host(rules: Rules) -> anyhow::Result<Outcome> {
    let (told, outcome) = mpsc::channel();
    host::on_a_host(move |state| async move {
        // The receiver waits below.
        told.send(attempt_all(state, rules).await).ok();
    });
    outcome.recv().context("the attempts came to no end")
}
