//! What the death, the pause and the restart of each process may cost, as data. `docs/faults.md` shows
//! the same table, and the platform tests hold it against a platform under load.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use anyhow::{Context, ensure};

/// How long a process is paused.
pub const PAUSE: Duration = Duration::from_secs(5);
/// Whoever waits no longer than this, on a busy machine, has noticed nothing. Shorter than a pause, so
/// that waiting for a paused process does not pass for it.
pub const UNNOTICED: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Process {
    Supervisor,
    Control,
    Worker,
    Edge,
    Net,
    /// The shim of one machine.
    Shim,
}

impl Process {
    pub const ALL: [Self; 6] = [Self::Supervisor, Self::Control, Self::Worker, Self::Edge, Self::Net, Self::Shim];
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blow {
    /// SIGKILL.
    Killed,
    /// SIGSTOP, and SIGCONT after [`PAUSE`].
    Paused,
    /// SIGTERM, and started again by whoever starts it.
    Restarted,
}

impl Blow {
    pub const ALL: [Self; 3] = [Self::Killed, Self::Paused, Self::Restarted];
}

/// What somebody may be waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// Requests to running machines, each on a connection of its own.
    Requests,
    /// Connections that stay open: kept-alive ones and a WebSocket.
    Connections,
    /// Requests to a stopped machine.
    Wakes,
    /// Requests to an app of which a machine has just crashed: another one answers them.
    Crashes,
    /// Changes of control's records.
    Records,
    /// Changes of a machine on this node.
    Machines,
}

impl Duty {
    pub const ALL: [Self; 6] =
        [Self::Requests, Self::Connections, Self::Wakes, Self::Crashes, Self::Records, Self::Machines];
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// Nothing fails and nobody waits longer than [`UNNOTICED`].
    GoesOn,
    /// Nothing fails; it may take this long.
    Waits(Duration),
    /// What was under way fails at most; whatever begins later succeeds, and may take this long.
    LosesOnlyUnderway(Duration),
    /// May fail; asked again and again, it works after this long.
    Stops(Duration),
}

/// A line of the table: what one blow to one process costs.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub process: Process,
    pub blow: Blow,
    promises: [Promise; Duty::ALL.len()],
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn row(process: Process, blow: Blow, promises: [Promise; Duty::ALL.len()]) -> Row {
    Row { process, blow, promises }
}

use Blow::{Killed, Paused, Restarted};
use Process::{Control, Edge, Net, Shim, Supervisor, Worker};
use Promise::{GoesOn, LosesOnlyUnderway, Stops, Waits};

/// Limits are ten times what is usual and more: they must hold on a machine that does much else.
#[rustfmt::skip]
pub const TABLE: [Row; 18] = [
    //                          requests,   connections, wakes,      crashes,    records,    machines
    row(Supervisor, Killed,    [GoesOn,     GoesOn,      GoesOn,     GoesOn,     GoesOn,     GoesOn]),
    row(Supervisor, Paused,    [GoesOn,     GoesOn,      GoesOn,     GoesOn,     GoesOn,     GoesOn]),
    row(Supervisor, Restarted, [Stops(seconds(60)), Stops(seconds(60)), Stops(seconds(60)), Stops(seconds(60)), Stops(seconds(60)), Stops(seconds(60))]),
    row(Control,    Killed,    [GoesOn,     GoesOn,      GoesOn,     GoesOn,     Stops(seconds(20)), Stops(seconds(20))]),
    row(Control,    Paused,    [GoesOn,     GoesOn,      GoesOn,     GoesOn,     Waits(seconds(20)), Waits(seconds(20))]),
    row(Control,    Restarted, [GoesOn,     GoesOn,      GoesOn,     GoesOn,     Stops(seconds(20)), Stops(seconds(20))]),
    row(Worker,     Killed,    [GoesOn,     GoesOn,      Waits(seconds(20)), GoesOn, GoesOn, Stops(seconds(20))]),
    row(Worker,     Paused,    [GoesOn,     GoesOn,      Waits(seconds(20)), GoesOn, GoesOn, Waits(seconds(20))]),
    row(Worker,     Restarted, [GoesOn,     GoesOn,      Waits(seconds(20)), GoesOn, GoesOn, Stops(seconds(20))]),
    row(Edge,       Killed,    [LosesOnlyUnderway(seconds(20)), Stops(seconds(20)), LosesOnlyUnderway(seconds(20)), LosesOnlyUnderway(seconds(20)), GoesOn, GoesOn]),
    row(Edge,       Paused,    [Waits(seconds(20)), Waits(seconds(20)), Waits(seconds(20)), Waits(seconds(20)), GoesOn, GoesOn]),
    // The next edge begins when the old one has finished what is under way, for 30 s at most.
    row(Edge,       Restarted, [Waits(seconds(40)), Stops(seconds(40)), Waits(seconds(40)), Waits(seconds(40)), GoesOn, GoesOn]),
    // Requests travel beside the mesh; what the machines say to each other waits (tests/platform/mesh.rs).
    row(Net,        Killed,    [GoesOn,     GoesOn,      GoesOn,     GoesOn,     GoesOn,     GoesOn]),
    row(Net,        Paused,    [GoesOn,     GoesOn,      GoesOn,     GoesOn,     GoesOn,     GoesOn]),
    row(Net,        Restarted, [GoesOn,     GoesOn,      GoesOn,     GoesOn,     GoesOn,     GoesOn]),
    row(Shim,       Killed,    [LosesOnlyUnderway(seconds(20)), Stops(seconds(20)), GoesOn, GoesOn, GoesOn, GoesOn]),
    row(Shim,       Paused,    [GoesOn,     GoesOn,      GoesOn,     GoesOn,     GoesOn,     GoesOn]),
    row(Shim,       Restarted, [LosesOnlyUnderway(seconds(20)), Stops(seconds(20)), GoesOn, GoesOn, GoesOn, GoesOn]),
];

impl Row {
    pub fn promises(&self) -> impl Iterator<Item = (Duty, Promise)> {
        Duty::ALL.into_iter().zip(self.promises)
    }

    /// Whether the machines that run may have been started anew. Only a machine whose shim died has.
    pub fn costs_a_machine(&self) -> bool {
        self.process == Shim && self.blow != Paused
    }
}

/// The whole table as the documentation shows it.
pub fn markdown() -> String {
    let mut text = String::from("| process | what happens to it |");
    for duty in Duty::ALL {
        // Writing to a String cannot fail.
        write!(text, " {duty} |").ok();
    }
    text.push_str("\n| --- | --- |");
    text.push_str(&" --- |".repeat(Duty::ALL.len()));
    text.push('\n');
    for row in TABLE {
        write!(text, "| {} | {} |", row.process, row.blow).ok();
        for (_, promise) in row.promises() {
            write!(text, " {promise} |").ok();
        }
        text.push('\n');
    }
    text
}

/// One try at something, by somebody who does not give up.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Unix milliseconds.
    pub began_ms: u64,
    pub took: Duration,
    pub error: Option<String>,
}

impl Attempt {
    fn ended_ms(&self) -> u64 {
        self.began_ms + self.took.as_millis() as u64
    }
}

/// What became of the attempts around one blow.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub attempts: usize,
    pub failed: usize,
    /// Of the failed, those that began after the blow, and the first of them.
    pub failed_later: usize,
    pub first_later: Option<String>,
    /// The longest that anybody waited until it worked, failures on the way included.
    pub longest: Duration,
    /// It never worked again.
    pub over: bool,
}

impl Measured {
    /// `blow_ms`: when it was struck, in Unix milliseconds.
    pub fn of(mut attempts: Vec<Attempt>, blow_ms: u64) -> Self {
        attempts.sort_by_key(|attempt| attempt.began_ms);
        let mut measured = Self { attempts: attempts.len(), ..Self::default() };
        // From the last to the first: the earliest end of a success that began no earlier.
        let mut next_success: Option<u64> = None;
        for attempt in attempts.iter().rev() {
            let waited = match &attempt.error {
                None => {
                    let ended = attempt.ended_ms();
                    next_success = Some(next_success.map_or(ended, |next| next.min(ended)));
                    attempt.took
                }
                Some(error) => {
                    measured.failed += 1;
                    if attempt.began_ms > blow_ms {
                        measured.failed_later += 1;
                        measured.first_later = Some(format!("{} ms after: {error}", attempt.began_ms - blow_ms));
                    }
                    measured.over |= next_success.is_none();
                    next_success
                        .map_or(attempt.took, |next| Duration::from_millis(next.saturating_sub(attempt.began_ms)))
                }
            };
            measured.longest = measured.longest.max(waited);
        }
        measured
    }
}

impl Promise {
    /// How long somebody may have to wait.
    fn limit(self) -> Duration {
        match self {
            GoesOn => UNNOTICED,
            Waits(limit) | LosesOnlyUnderway(limit) | Stops(limit) => limit,
        }
    }

    /// # Errors
    /// If what was measured breaks it.
    pub fn holds(self, measured: &Measured) -> anyhow::Result<()> {
        let Measured { attempts, failed, failed_later, first_later, longest, over } = measured;
        ensure!(*attempts > 0, "nobody tried");
        let failures = || format!("{failed} of {attempts} failed, {failed_later} of them begun later: {first_later:?}");
        match self {
            GoesOn | Waits(_) => ensure!(*failed == 0, failures()),
            LosesOnlyUnderway(_) => ensure!(*failed_later == 0, failures()),
            Stops(_) => {}
        }
        ensure!(!over, "it did not come back: {}", failures());
        let limit = self.limit();
        ensure!(*longest <= limit, "somebody waited {longest:.1?}, more than {limit:?}");
        Ok(())
    }
}

impl Row {
    /// # Errors
    /// With every promise that was broken.
    pub fn holds(&self, measured: &[(Duty, Measured)]) -> anyhow::Result<()> {
        let mut broken = Vec::new();
        for (duty, promise) in self.promises() {
            let found = measured.iter().find(|(measured, _)| *measured == duty);
            let (_, found) = found.with_context(|| format!("{duty} was not measured"))?;
            if let Err(error) = promise.holds(found) {
                broken.push(format!("{duty} ({promise}): {error:#}"));
            }
        }
        ensure!(broken.is_empty(), "{} {}: {}", self.process, self.blow, broken.join("; "));
        Ok(())
    }
}

impl Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Supervisor => "supervisor",
            Control => "control",
            Worker => "worker",
            Edge => "edge",
            Net => "net",
            Shim => "shim",
        })
    }
}

impl Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Killed => "killed",
            Paused => "paused",
            Restarted => "restarted",
        })
    }
}

impl Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Connections => "open connections",
            Self::Wakes => "wakes",
            Self::Crashes => "avoiding a crashed machine",
            Self::Records => "API: records",
            Self::Machines => "API: machines",
        })
    }
}

impl Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit().as_secs();
        match self {
            GoesOn => f.write_str("go on"),
            Waits(_) => write!(f, "wait ≤ {limit} s"),
            LosesOnlyUnderway(_) => write!(f, "lost if under way; later ones wait ≤ {limit} s"),
            Stops(_) => write!(f, "stop ≤ {limit} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(began_ms: u64, took_ms: u64, ok: bool) -> Attempt {
        let error = (!ok).then(|| "reset".to_owned());
        Attempt { began_ms, took: Duration::from_millis(took_ms), error }
    }

    #[test]
    fn the_table_has_each_blow_to_each_process_once() {
        for process in Process::ALL {
            for blow in Blow::ALL {
                let rows = TABLE.iter().filter(|row| row.process == process && row.blow == blow);
                assert_eq!(rows.count(), 1, "{process} {blow}");
            }
        }
    }

    #[test]
    fn the_documentation_shows_this_table() {
        let page = crate::programs::checkout().join("docs/faults.md");
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains(&markdown()), "docs/faults.md has another table than this one:\n{}", markdown());
    }

    #[test]
    fn a_wait_lasts_from_the_first_failure_to_the_end_of_the_next_success() {
        let attempts =
            vec![attempt(0, 5, true), attempt(100, 1, false), attempt(200, 1, false), attempt(300, 50, true)];
        let measured = Measured::of(attempts, 150);
        assert_eq!((measured.attempts, measured.failed, measured.failed_later), (4, 2, 1));
        assert_eq!((measured.longest, measured.over), (Duration::from_millis(250), false));
        assert!(GoesOn.holds(&measured).is_err());
        assert!(LosesOnlyUnderway(seconds(1)).holds(&measured).is_err());
        assert!(Stops(seconds(1)).holds(&measured).is_ok());
        assert!(Stops(Duration::from_millis(249)).holds(&measured).is_err());
    }

    #[test]
    fn what_was_under_way_may_be_lost_and_what_never_works_again_may_not() {
        let measured = Measured::of(vec![attempt(100, 60, false), attempt(160, 10, true)], 150);
        assert!(LosesOnlyUnderway(seconds(1)).holds(&measured).is_ok());
        assert!(Waits(seconds(1)).holds(&measured).is_err());
        let measured = Measured::of(vec![attempt(0, 1, true), attempt(100, 1, false)], 0);
        assert!(measured.over && Stops(seconds(100)).holds(&measured).is_err());
        assert!(GoesOn.holds(&Measured::of(Vec::new(), 0)).is_err());
    }
}
