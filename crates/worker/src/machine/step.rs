//! The transitions of one machine as a pure function: a phase and an input in, the next phase and
//! the effects to perform out. It knows no clock, no driver and no store.
//!
//! ```text
//!            ┌────────────── Preparing ──(image missing)──► Failed
//!            │ start?            ▲ update while down           │ start
//!            ▼                   │                             ▼
//!         Stopped ──start──► Starting ──launched──► Started ──suspend──► Suspending ─► Suspended
//!            ▲                   ▲  │                 │  │                                │
//!            │                   │  └─failed──┐       │  └──update──► Swapping            │ start
//!            │                   │            ▼       │                  │                ▼
//!         Clearing ◄──exited── Ending{then} ◄─stop────┴──────────────────┘            Resuming
//!            │
//!            └─ then: Rest ► Stopped · Start ► Starting · Replace ► Preparing · Remove ► Removing
//!                     BackOff ► BackingOff ► Starting · Fail ► Failed
//!         Removing ─► Removed
//! ```
//!
//! `Ending` waits for the processes to be gone, `Clearing` for what they leave on the host. What is
//! to follow (`Next`) is part of the phase, so it is durable: whoever finds the phase after a crash
//! knows where the machine was going. Asking again in between only changes `then`.

use atoll_model::MachineState;
use serde::{Deserialize, Serialize};

/// Where a machine is. Finer than [`MachineState`], which callers see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// The image is being made ready; `start` says what follows, `replacing` that an update caused it.
    Preparing {
        start: bool,
        replacing: bool,
    },
    Starting {
        cause: Cause,
    },
    Started,
    /// Running the old version while the new version's image is made ready.
    Swapping {
        start: bool,
    },
    Ending {
        then: Next,
    },
    Clearing {
        then: Next,
    },
    /// The restart policy waits.
    BackingOff,
    Stopped,
    Suspending,
    Suspended,
    Resuming,
    Failed,
    Removing,
    Removed,
}

/// Why a machine is being started; decides what callers see meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Request,
    /// A request waits for it: routable as soon as its port accepts.
    Wake,
    Restart,
    Replace,
}

/// What follows when a machine's processes are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "next", rename_all = "snake_case")]
pub enum Next {
    Rest,
    Start {
        cause: Cause,
    },
    /// Prepare the recorded version, then start it or rest.
    Replace {
        start: bool,
    },
    BackOff {
        ms: u64,
    },
    Fail,
    Remove,
}

/// What happens to a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    Start {
        cause: Cause,
    },
    Stop,
    Suspend,
    /// `force`: without the stop signal.
    Restart {
        force: bool,
    },
    /// A new version was recorded; `skip_launch` leaves it down.
    Update {
        skip_launch: bool,
    },
    Destroy,
    Prepared,
    PrepareFailed,
    Launched,
    LaunchFailed {
        verdict: Verdict,
    },
    Paused,
    /// The driver cannot freeze it.
    PauseFailed,
    Resumed,
    ResumeFailed,
    Exited {
        verdict: Verdict,
    },
    Cleared,
    /// The time between the stop signal and the kill is over.
    KillDue,
    BackOffOver,
    RemoveDone,
}

/// What the restart policy says of an end that nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    StayDown,
    RestartAfter {
        ms: u64,
    },
    /// The configuration cannot run.
    Fail,
    /// `auto_destroy`, and the policy has given up.
    Remove,
}

/// What the machine's task has to do. Each may be performed again after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Make the image of the recorded version ready.
    Prepare,
    /// Network, root, processes; answers `Launched` or `LaunchFailed`.
    Launch,
    /// Send the stop signal and arm the kill.
    AskToEnd,
    Kill,
    Pause,
    Resume,
    /// Remove what the processes left: root, cgroup, network; answers `Cleared`.
    Clear,
    ArmBackOff {
        ms: u64,
    },
    /// Remove everything of the machine but its tombstone; answers `RemoveDone`.
    Remove,
}

/// The outcome of one input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    pub phase: Phase,
    pub effects: Vec<Effect>,
}

fn to(phase: Phase, effects: impl Into<Vec<Effect>>) -> Step {
    Step { phase, effects: effects.into() }
}

impl Phase {
    /// What callers see.
    pub fn state(self) -> MachineState {
        match self {
            Self::Preparing { replacing: false, .. } => MachineState::Created,
            Self::Preparing { replacing: true, .. } | Self::Swapping { .. } => MachineState::Replacing,
            Self::Starting { cause } => cause.state(),
            Self::Started => MachineState::Started,
            Self::Ending { then } | Self::Clearing { then } => then.state(),
            Self::BackingOff => MachineState::Restarting,
            Self::Stopped => MachineState::Stopped,
            Self::Suspending => MachineState::Suspending,
            Self::Suspended => MachineState::Suspended,
            Self::Resuming => MachineState::Starting,
            Self::Failed => MachineState::Failed,
            Self::Removing => MachineState::Destroying,
            Self::Removed => MachineState::Destroyed,
        }
    }

    /// Whether the machine's processes may serve.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Started | Self::Swapping { .. })
    }

    /// Whether processes of the machine may exist.
    pub fn may_have_processes(self) -> bool {
        use Phase::*;
        matches!(self, Starting { .. } | Started | Swapping { .. } | Ending { .. } | Suspending | Suspended | Resuming)
    }
}

impl Cause {
    fn state(self) -> MachineState {
        match self {
            Self::Request | Self::Wake => MachineState::Starting,
            Self::Restart => MachineState::Restarting,
            Self::Replace => MachineState::Replacing,
        }
    }
}

impl Next {
    fn state(self) -> MachineState {
        match self {
            Self::Rest | Self::Fail => MachineState::Stopping,
            Self::Start { cause } => cause.state(),
            Self::Replace { .. } => MachineState::Replacing,
            Self::BackOff { .. } => MachineState::Restarting,
            Self::Remove => MachineState::Destroying,
        }
    }

    fn leads_to_start(self) -> bool {
        matches!(self, Self::Start { .. } | Self::BackOff { .. } | Self::Replace { start: true })
    }
}

impl Verdict {
    fn next(self) -> Next {
        match self {
            Self::StayDown => Next::Rest,
            Self::RestartAfter { ms } => Next::BackOff { ms },
            Self::Fail => Next::Fail,
            Self::Remove => Next::Remove,
        }
    }
}

/// One transition. Total: an input that means nothing in a phase leaves it as it is, since inputs
/// of effects may arrive after the phase that asked for them was left.
pub fn step(phase: Phase, input: Input) -> Step {
    match input {
        Input::Start { cause } => start(phase, cause),
        Input::Stop => stop(phase),
        Input::Suspend => match phase {
            Phase::Started => to(Phase::Suspending, [Effect::Pause]),
            _ => to(phase, []),
        },
        Input::Restart { force } => restart(phase, force),
        Input::Update { skip_launch } => update(phase, skip_launch),
        Input::Destroy => destroy(phase),
        Input::Prepared | Input::PrepareFailed => prepared(phase, input == Input::Prepared),
        Input::Launched | Input::LaunchFailed { .. } | Input::Resumed | Input::ResumeFailed => began(phase, input),
        Input::Paused => match phase {
            Phase::Suspending => to(Phase::Suspended, []),
            _ => to(phase, []),
        },
        Input::PauseFailed => match phase {
            // A machine that cannot be suspended is stopped instead.
            Phase::Suspending => to(Phase::Ending { then: Next::Rest }, [Effect::AskToEnd]),
            _ => to(phase, []),
        },
        Input::Exited { verdict } => exited(phase, verdict),
        Input::Cleared => cleared(phase),
        Input::KillDue => match phase {
            Phase::Ending { .. } => to(phase, [Effect::Kill]),
            _ => to(phase, []),
        },
        Input::BackOffOver => match phase {
            Phase::BackingOff => to(Phase::Starting { cause: Cause::Restart }, [Effect::Launch]),
            _ => to(phase, []),
        },
        Input::RemoveDone => match phase {
            Phase::Removing => to(Phase::Removed, []),
            _ => to(phase, []),
        },
    }
}

fn start(phase: Phase, cause: Cause) -> Step {
    match phase {
        Phase::Preparing { replacing, .. } => to(Phase::Preparing { start: true, replacing }, []),
        Phase::Stopped | Phase::Failed | Phase::BackingOff => to(Phase::Starting { cause }, [Effect::Launch]),
        Phase::Suspended => to(Phase::Resuming, [Effect::Resume]),
        // Only a wake gets here: it waits for the end, then the machine comes back.
        Phase::Ending { then: Next::Rest } => to(Phase::Ending { then: Next::Start { cause } }, []),
        Phase::Clearing { then: Next::Rest } => to(Phase::Clearing { then: Next::Start { cause } }, []),
        _ => to(phase, []),
    }
}

fn stop(phase: Phase) -> Step {
    let ending = Phase::Ending { then: Next::Rest };
    match phase {
        Phase::Preparing { replacing, .. } => to(Phase::Preparing { start: false, replacing }, []),
        // The start is under way; it is asked to end once it has launched.
        Phase::Starting { .. } => to(ending, []),
        Phase::Started | Phase::Swapping { .. } => to(ending, [Effect::AskToEnd]),
        Phase::Suspending | Phase::Suspended | Phase::Resuming => to(ending, [Effect::Kill]),
        Phase::Ending { then } if then.leads_to_start() => to(ending, []),
        Phase::Clearing { then } if then.leads_to_start() => to(Phase::Clearing { then: Next::Rest }, []),
        Phase::BackingOff | Phase::Failed => to(Phase::Stopped, []),
        _ => to(phase, []),
    }
}

fn restart(phase: Phase, force: bool) -> Step {
    let cause = Cause::Restart;
    let ending = Phase::Ending { then: Next::Start { cause } };
    match phase {
        Phase::Started => to(ending, [if force { Effect::Kill } else { Effect::AskToEnd }]),
        Phase::Starting { .. } => to(ending, []),
        Phase::Suspended | Phase::Resuming => to(ending, [Effect::Kill]),
        Phase::Stopped | Phase::Failed => to(Phase::Starting { cause }, [Effect::Launch]),
        _ => to(phase, []),
    }
}

fn update(phase: Phase, skip_launch: bool) -> Step {
    let replace = |start: bool| Next::Replace { start: start && !skip_launch };
    let prepare =
        |start: bool| to(Phase::Preparing { start: start && !skip_launch, replacing: true }, [Effect::Prepare]);
    match phase {
        Phase::Preparing { start, replacing: false } => {
            to(Phase::Preparing { start: start && !skip_launch, replacing: false }, [Effect::Prepare])
        }
        Phase::Preparing { start, .. } => prepare(start),
        Phase::Started | Phase::Swapping { .. } => to(Phase::Swapping { start: !skip_launch }, [Effect::Prepare]),
        Phase::Starting { .. } => to(Phase::Ending { then: replace(true) }, []),
        Phase::Resuming => to(Phase::Ending { then: replace(true) }, [Effect::Kill]),
        // What was frozen belongs to the old version.
        Phase::Suspending | Phase::Suspended => to(Phase::Ending { then: replace(false) }, [Effect::Kill]),
        Phase::Ending { then: Next::Remove } | Phase::Clearing { then: Next::Remove } => to(phase, []),
        Phase::Ending { then } => to(Phase::Ending { then: replace(then.leads_to_start()) }, []),
        Phase::Clearing { then } => to(Phase::Clearing { then: replace(then.leads_to_start()) }, []),
        Phase::BackingOff | Phase::Failed => prepare(true),
        Phase::Stopped => prepare(false),
        Phase::Removing | Phase::Removed => to(phase, []),
    }
}

fn destroy(phase: Phase) -> Step {
    let ending = Phase::Ending { then: Next::Remove };
    match phase {
        Phase::Removing | Phase::Removed => to(phase, []),
        Phase::Preparing { .. } | Phase::Stopped | Phase::Failed | Phase::BackingOff => {
            to(Phase::Removing, [Effect::Remove])
        }
        Phase::Starting { .. } => to(ending, []),
        Phase::Started | Phase::Swapping { .. } | Phase::Suspending | Phase::Suspended | Phase::Resuming => {
            to(ending, [Effect::Kill])
        }
        Phase::Ending { .. } => to(ending, [Effect::Kill]),
        Phase::Clearing { .. } => to(Phase::Clearing { then: Next::Remove }, []),
    }
}

fn prepared(phase: Phase, ready: bool) -> Step {
    match phase {
        Phase::Preparing { start: true, replacing } if ready => {
            let cause = if replacing { Cause::Replace } else { Cause::Request };
            to(Phase::Starting { cause }, [Effect::Launch])
        }
        Phase::Preparing { .. } if ready => to(Phase::Stopped, []),
        Phase::Preparing { .. } => to(Phase::Failed, []),
        Phase::Swapping { start } if ready => to(Phase::Ending { then: Next::Replace { start } }, [Effect::AskToEnd]),
        Phase::Swapping { .. } => to(Phase::Ending { then: Next::Fail }, [Effect::AskToEnd]),
        _ => to(phase, []),
    }
}

fn began(phase: Phase, input: Input) -> Step {
    match (phase, input) {
        (Phase::Starting { .. }, Input::Launched) | (Phase::Resuming, Input::Resumed) => to(Phase::Started, []),
        // Asked to end while it was still starting.
        (Phase::Ending { then: Next::Remove }, Input::Launched) => to(phase, [Effect::Kill]),
        (Phase::Ending { .. }, Input::Launched) => to(phase, [Effect::AskToEnd]),
        (Phase::Ending { then }, Input::LaunchFailed { .. }) => to(Phase::Clearing { then }, [Effect::Clear]),
        (Phase::Starting { .. }, Input::LaunchFailed { verdict }) => {
            to(Phase::Clearing { then: verdict.next() }, [Effect::Clear])
        }
        // What was frozen is lost; the machine boots afresh.
        (Phase::Resuming, Input::ResumeFailed) => {
            to(Phase::Ending { then: Next::Start { cause: Cause::Request } }, [Effect::Kill])
        }
        _ => to(phase, []),
    }
}

fn exited(phase: Phase, verdict: Verdict) -> Step {
    let clearing = |then| to(Phase::Clearing { then }, [Effect::Clear]);
    match phase {
        Phase::Ending { then } => clearing(then),
        Phase::Started | Phase::Starting { .. } => clearing(verdict.next()),
        Phase::Swapping { start } => clearing(Next::Replace { start }),
        Phase::Suspending | Phase::Suspended => clearing(Next::Rest),
        Phase::Resuming => clearing(Next::Start { cause: Cause::Request }),
        _ => to(phase, []),
    }
}

fn cleared(phase: Phase) -> Step {
    let Phase::Clearing { then } = phase else { return to(phase, []) };
    match then {
        Next::Rest => to(Phase::Stopped, []),
        Next::Start { cause } => to(Phase::Starting { cause }, [Effect::Launch]),
        Next::Replace { start } => to(Phase::Preparing { start, replacing: true }, [Effect::Prepare]),
        Next::BackOff { ms } => to(Phase::BackingOff, [Effect::ArmBackOff { ms }]),
        Next::Fail => to(Phase::Failed, []),
        Next::Remove => to(Phase::Removing, [Effect::Remove]),
    }
}

/// What reality shows of a machine when the agent begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    Running {
        paused: bool,
    },
    /// It ended while no agent looked.
    Exited {
        verdict: Verdict,
    },
    /// No trace: never started, or the host restarted.
    Nothing,
}

/// Joins a recorded phase with what was found: finishes or unwinds whatever was under way.
pub fn recover(phase: Phase, found: Found) -> Step {
    match (phase, found) {
        (Phase::Removing, _) => to(Phase::Removing, [Effect::Remove]),
        (Phase::Removed, _) => to(phase, []),
        (Phase::Ending { then: Next::Remove } | Phase::Clearing { then: Next::Remove }, _) => {
            to(Phase::Removing, [Effect::Remove])
        }

        // A frozen process hears no signal.
        (Phase::Ending { .. }, Found::Running { paused: true }) => to(phase, [Effect::Kill]),
        (Phase::Ending { .. }, Found::Running { paused: false }) => to(phase, [Effect::AskToEnd]),
        (Phase::Clearing { then }, Found::Running { .. }) => to(Phase::Ending { then }, [Effect::Kill]),
        (Phase::Suspending | Phase::Suspended, Found::Running { paused: true }) => to(Phase::Suspended, []),
        (Phase::Suspending, Found::Running { paused: false }) => to(phase, [Effect::Pause]),
        (Phase::Resuming, Found::Running { paused: true }) => to(phase, [Effect::Resume]),
        (Phase::Swapping { .. }, Found::Running { paused: false }) => to(phase, [Effect::Prepare]),
        (Phase::Swapping { start }, Found::Running { paused: true }) => {
            to(Phase::Ending { then: Next::Replace { start } }, [Effect::Kill])
        }
        (Phase::Preparing { start, .. }, Found::Running { .. }) => {
            // An update of a machine that was down, and yet it runs: the old version must go first.
            to(Phase::Ending { then: Next::Replace { start } }, [Effect::Kill])
        }
        // Every other phase gives way to the fact. A wake may not have been recorded before the
        // agent died, so a machine recorded as down may well be up.
        (_, Found::Running { paused: true }) => to(Phase::Suspended, []),
        (_, Found::Running { paused: false }) => to(Phase::Started, []),

        (Phase::Ending { then } | Phase::Clearing { then }, _) => to(Phase::Clearing { then }, [Effect::Clear]),
        (Phase::Preparing { .. }, _) => to(phase, [Effect::Prepare]),
        (Phase::Swapping { start }, _) => to(Phase::Clearing { then: Next::Replace { start } }, [Effect::Clear]),
        (Phase::BackingOff, _) => to(Phase::BackingOff, [Effect::ArmBackOff { ms: 0 }]),
        (Phase::Started, Found::Exited { verdict }) => to(Phase::Clearing { then: verdict.next() }, [Effect::Clear]),
        (Phase::Starting { .. }, Found::Exited { verdict }) => {
            to(Phase::Clearing { then: verdict.next() }, [Effect::Clear])
        }
        (Phase::Suspending | Phase::Suspended, _) => to(Phase::Clearing { then: Next::Rest }, [Effect::Clear]),
        (Phase::Starting { cause }, Found::Nothing) => {
            to(Phase::Clearing { then: Next::Start { cause } }, [Effect::Clear])
        }
        // A host that restarted: what was up comes up again.
        (Phase::Started | Phase::Resuming, _) => {
            to(Phase::Clearing { then: Next::Start { cause: Cause::Restart } }, [Effect::Clear])
        }
        (Phase::Stopped | Phase::Failed, _) => to(phase, []),
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
