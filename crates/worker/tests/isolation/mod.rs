//! Isolation, shown by capture: hostile machines, nodes and neighbours send what they should not, and
//! wires and hosts are listened to. A test and a bench share it.
//!
//! It knows what may be seen where, and nothing of how that is enforced.

mod attempts;
mod capture;
mod packets;
mod stage;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::host::ip;
use attempts::{Attempt, FLOOD_V4, FLOOD_V6};
use capture::{Listener, Seen};
use stage::{Place, Stage};

/// For what is allowed to arrive: on a busy machine; and where all that is sent arrives as well, which
/// may be more than is caught.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_WITHOUT_RULES: Duration = Duration::from_secs(2);
/// What leaks has this long after that.
const AFTERMATH: Duration = Duration::from_millis(500);

/// What came of it.
pub struct Outcome {
    /// Of who may not.
    pub attempts: usize,
    /// Where each was seen that should not have been.
    pub leaks: Vec<String>,
    /// What is allowed and was not seen: the capture proves nothing.
    pub blind: Vec<String>,
}

/// Whether the near host enforces anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rules {
    InForce,
    /// What the same attempts come to without them shows that they are worth making.
    Lifted,
}

/// Makes all attempts on a host that is the caller's alone, with its state in a folder.
pub async fn attempt_all(state: PathBuf, rules: Rules) -> Outcome {
    let (stage, sockets) = Stage::new(&state).await;
    if rules == Rules::Lifted {
        stage::lift_rules();
    }
    let listener = Listener::start(sockets);
    let table = attempts::table(&stage);
    for attempt in &table {
        for frame in &attempt.frames {
            stage.send(attempt.origin, frame);
        }
    }
    let wanted: Seen = table.iter().enumerate().filter(|(_, attempt)| attempt.control).flat_map(permitted).collect();
    let patience = if rules == Rules::InForce { PATIENCE } else { PATIENCE_WITHOUT_RULES };
    let begun = Instant::now();
    while !wanted.is_subset(&listener.seen()) && begun.elapsed() < patience {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Not for luck: what may not arrive has no event to wait for.
    tokio::time::sleep(AFTERMATH).await;
    let seen = listener.finish();

    let may: Seen = table.iter().enumerate().flat_map(permitted).collect();
    let name = |(attempt, place): &(usize, Place)| format!("{}: seen at {place:?}", table[*attempt].name);
    let mut leaks: Vec<String> = seen.difference(&may).map(name).collect();
    leaks.extend(learnt());
    Outcome {
        attempts: table.iter().filter(|attempt| !attempt.control).count(),
        leaks,
        blind: wanted.difference(&seen).map(name).collect(),
    }
}

fn permitted((number, attempt): (usize, &Attempt)) -> BTreeSet<(usize, Place)> {
    attempt.allowed.iter().map(|place| (number, *place)).collect()
}

/// What a host has taken up from floods and advertisements.
fn learnt() -> Vec<String> {
    let v4 = FLOOD_V4.octets();
    let signs = [
        ("neigh", FLOOD_V6.to_string().trim_end_matches('0').to_owned()),
        ("neigh", format!("{}.{}.", v4[0], v4[1])),
        ("neigh", ":bad:".to_owned()),
        ("-6 route", "proto ra".to_owned()),
    ];
    let learnt = signs.iter().filter(|(table, sign)| ip(table).contains(sign));
    learnt.map(|(table, sign)| format!("the host has {sign} in `ip {table}`")).collect()
}
