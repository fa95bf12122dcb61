//! Whether a new machine has shown that it works: it runs, and every check passed once; without
//! checks its ports accept; without services it stays up for a while.

use std::time::Duration;

use atoll_model::MachineState;
use serde::{Deserialize, Serialize};

/// How long a machine may take when fly.toml does not say (`[deploy] wait_timeout`).
pub const DEFAULT_WAIT_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How long a machine without services must stay up.
pub const STEADY_FOR: Duration = Duration::from_secs(3);
/// Ends of its process that are forgiven while the restart policy tries again.
const FORGIVEN_EXITS: u32 = 2;

/// What is seen of the machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Observation {
    pub state: MachineState,
    /// Since the last start; `None` while not started.
    pub up_for: Option<Duration>,
    /// Since the gate opened.
    pub waited: Duration,
    /// Times that its process ended since then, and how it ended last.
    pub exits: u32,
    pub last_exit: Option<LastExit>,
    /// Internal ports of its services, each with whether it has accepted.
    pub ports: Vec<(u16, bool)>,
    pub checks: Vec<SeenCheck>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastExit {
    pub code: i32,
    pub oom_killed: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeenCheck {
    pub name: String,
    pub passed_once: bool,
    /// Of its last run.
    pub output: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judgement {
    Passed,
    /// What it waits for, for people.
    Waiting(String),
    Failed(GateFailure),
}

/// Why a machine is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GateFailure {
    #[error("the machine ran out of memory and was killed")]
    OutOfMemory,
    #[error("the process exited with code {code}{}", if *.times > 1 { format!(" ({times} times)") } else { String::new() })]
    Exited { code: i32, times: u32 },
    #[error("the machine is {state} instead of started")]
    NotRunning { state: MachineState },
    #[error("the machine did not start within {} s", .waited.as_secs())]
    NotStarted { waited: Duration },
    #[error("nothing accepts connections on port {port} after {} s; is it the port that the app listens on, and does it listen on 0.0.0.0?", .waited.as_secs())]
    NeverListened { port: u16, waited: Duration },
    #[error("check {name:?} has not passed within {} s; it last said: {output}", .waited.as_secs())]
    CheckFailing { name: String, output: String, waited: Duration },
    #[error("the process did not stay up for {} s", STEADY_FOR.as_secs())]
    Unsteady,
}

/// The judgement on a machine that may take `timeout` in all.
pub fn judge(seen: &Observation, timeout: Duration) -> Judgement {
    use MachineState::*;
    let is_over = matches!(seen.state, Stopped | Suspended | Failed | Destroying | Destroyed);
    if (is_over && seen.exits > 0) || seen.exits > FORGIVEN_EXITS {
        return Judgement::Failed(match seen.last_exit {
            Some(LastExit { oom_killed: true, .. }) => GateFailure::OutOfMemory,
            Some(exit) => GateFailure::Exited { code: exit.code, times: seen.exits },
            None => GateFailure::NotRunning { state: seen.state },
        });
    }
    if is_over {
        return Judgement::Failed(GateFailure::NotRunning { state: seen.state });
    }
    let Some((waiting, failure)) = missing(seen) else { return Judgement::Passed };
    if seen.waited >= timeout { Judgement::Failed(failure) } else { Judgement::Waiting(waiting) }
}

/// The first thing that a machine has yet to show, and what it means when it never does.
fn missing(seen: &Observation) -> Option<(String, GateFailure)> {
    let waited = seen.waited;
    let up_for = match seen.up_for {
        Some(up_for) if seen.state == MachineState::Started => up_for,
        _ => return Some(("the machine to start".into(), GateFailure::NotStarted { waited })),
    };
    if let Some(check) = seen.checks.iter().find(|check| !check.passed_once) {
        let failure = GateFailure::CheckFailing { name: check.name.clone(), output: check.output.clone(), waited };
        return Some((format!("check {:?} to pass", check.name), failure));
    }
    if seen.checks.is_empty() {
        if let Some((port, _)) = seen.ports.iter().find(|(_, accepted)| !accepted) {
            return Some((format!("port {port} to accept"), GateFailure::NeverListened { port: *port, waited }));
        }
        if seen.ports.is_empty() && up_for < STEADY_FOR {
            return Some(("the process to stay up".into(), GateFailure::Unsteady));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn started() -> Observation {
        Observation {
            state: MachineState::Started,
            up_for: Some(Duration::from_secs(1)),
            waited: Duration::from_secs(2),
            exits: 0,
            last_exit: None,
            ports: vec![(8080, true)],
            checks: vec![],
        }
    }

    fn failure(seen: &Observation) -> String {
        match judge(seen, TIMEOUT) {
            Judgement::Failed(failure) => failure.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_port_that_accepts_is_enough_without_checks() {
        assert_eq!(judge(&started(), TIMEOUT), Judgement::Passed);
        let silent = Observation { ports: vec![(8080, true), (9090, false)], ..started() };
        assert_eq!(judge(&silent, TIMEOUT), Judgement::Waiting("port 9090 to accept".into()));
        assert!(
            failure(&Observation { waited: TIMEOUT, ..silent }).starts_with("nothing accepts connections on port 9090")
        );
    }

    #[test]
    fn every_check_must_pass_once() {
        let check = |passed_once| SeenCheck { name: "up".into(), passed_once, output: "500 oh no".into() };
        assert_eq!(judge(&Observation { checks: vec![check(true)], ..started() }, TIMEOUT), Judgement::Passed);
        let failing = Observation { checks: vec![check(true), check(false)], waited: TIMEOUT, ..started() };
        assert!(failure(&failing).contains("500 oh no"));
    }

    #[test]
    fn without_services_it_must_stay_up() {
        let young = Observation { ports: vec![], ..started() };
        assert!(matches!(judge(&young, TIMEOUT), Judgement::Waiting(_)));
        assert_eq!(judge(&Observation { up_for: Some(STEADY_FOR), ..young }, TIMEOUT), Judgement::Passed);
    }

    #[test]
    fn a_process_that_ends_is_refused_at_once() {
        let exit = |code, oom_killed| Some(LastExit { code, oom_killed });
        let ended = Observation { state: MachineState::Stopped, exits: 1, last_exit: exit(3, false), ..started() };
        assert_eq!(failure(&ended), "the process exited with code 3");
        let loops = Observation { state: MachineState::Starting, exits: 3, last_exit: exit(1, false), ..started() };
        assert_eq!(failure(&loops), "the process exited with code 1 (3 times)");
        assert!(failure(&Observation { last_exit: exit(137, true), ..ended }).contains("out of memory"));
        let once = Observation { exits: 1, ..loops };
        assert!(matches!(judge(&once, TIMEOUT), Judgement::Waiting(_)));
    }
}
