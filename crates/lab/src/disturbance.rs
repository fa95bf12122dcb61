//! Faults that go on by themselves: links that flap and hosts that are kept busy. Their state only; the
//! engine carries out what they say.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::address::Port;
use crate::error::{Attempt, LabError};

/// Shorter than this a flap is no longer one of links, but of packets.
const SHORTEST: Duration = Duration::from_millis(10);

/// The most threads that one host may be burdened with.
const MOST_THREADS: usize = 256;

/// A link that is cut and healed in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flap {
    a: Port,
    b: Port,
    every: Duration,
    cut: bool,
    next: Instant,
}

/// All links that flap.
#[derive(Debug, Default)]
pub struct Flaps(Vec<Flap>);

impl Flaps {
    /// Begins; the link is taken to have been cut just now. Replaces an earlier flap of the pair.
    pub fn begin(&mut self, a: Port, b: Port, every: Duration, now: Instant) -> Result<(), LabError> {
        if every < SHORTEST {
            return Err(LabError::Invalid(format!("a flap every {every:?}: from {SHORTEST:?} is possible")));
        }
        self.end([(a, b), (b, a)].as_slice());
        self.0.push(Flap { a, b, every, cut: true, next: now + every });
        Ok(())
    }

    /// Ends the flaps of healed pairs.
    pub fn end(&mut self, pairs: &[(Port, Port)]) {
        self.0.retain(|flap| !pairs.contains(&(flap.a, flap.b)) && !pairs.contains(&(flap.b, flap.a)));
    }

    /// When a link changes next.
    pub fn next(&self) -> Option<Instant> {
        self.0.iter().map(|flap| flap.next).min()
    }

    /// Which links change now, and whether to cut.
    pub fn due(&mut self, now: Instant) -> Vec<(Port, Port, bool)> {
        let due = self.0.iter_mut().filter(|flap| flap.next <= now);
        due.map(|flap| {
            flap.cut = !flap.cut;
            flap.next = now + flap.every;
            (flap.a, flap.b, flap.cut)
        })
        .collect()
    }
}

/// Starts threads in a host that compute for nothing; they end when this is dropped or the host dies.
pub fn burden(program: &Path, first: Pid, group: &Path, threads: usize) -> Result<Child, LabError> {
    if threads > MOST_THREADS {
        return Err(LabError::Invalid(format!("{threads} threads: up to {MOST_THREADS} are possible")));
    }
    Command::new(program)
        .args(["internal", "enter", &first.as_raw_nonzero().to_string()])
        .arg(group)
        .arg("--")
        .arg(program)
        .args(["internal", "hog", &threads.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .attempting(|| "start threads that compute".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Port = Port(0);
    const B: Port = Port(1);

    #[tokio::test]
    async fn a_flapping_link_heals_and_is_cut_in_turn_until_healed() {
        let (now, every) = (Instant::now(), Duration::from_millis(50));
        let mut flaps = Flaps::default();
        flaps.begin(A, B, every, now).unwrap();
        assert_eq!(flaps.due(now), []);
        assert_eq!(flaps.next(), Some(now + every));
        assert_eq!(flaps.due(now + every), [(A, B, false)]);
        assert_eq!(flaps.due(now + 2 * every), [(A, B, true)]);
        flaps.end(&[(B, A)]);
        assert_eq!(flaps.next(), None);
        assert!(flaps.begin(A, B, Duration::ZERO, now).is_err());
    }
}
