//! The transitions alone: examples of the documented paths, and properties over random histories.

use super::*;
use atoll_model::machine::{Call, Legality, legality};
use proptest::prelude::*;

fn run(mut phase: Phase, inputs: &[Input]) -> (Phase, Vec<Effect>) {
    let mut effects = Vec::new();
    for input in inputs {
        let Step { phase: next, effects: more } = step(phase, *input);
        phase = next;
        effects.extend(more);
    }
    (phase, effects)
}

const CREATED: Phase = Phase::Preparing { start: true, replacing: false };

#[test]
fn a_machine_is_prepared_launched_stopped_and_cleared() {
    let (phase, effects) = run(
        CREATED,
        &[Input::Prepared, Input::Launched, Input::Stop, Input::Exited { verdict: Verdict::StayDown }, Input::Cleared],
    );
    assert_eq!(phase, Phase::Stopped);
    assert_eq!(effects, [Effect::Launch, Effect::AskToEnd, Effect::Clear]);
}

#[test]
fn a_stop_during_the_start_takes_effect_when_it_has_launched() {
    let starting = Phase::Starting { cause: Cause::Request };
    let (phase, effects) = run(starting, &[Input::Stop]);
    assert_eq!((phase.state(), effects), (MachineState::Stopping, vec![]));
    assert_eq!(run(phase, &[Input::Launched]).1, [Effect::AskToEnd]);
    let (phase, _) = run(phase, &[Input::LaunchFailed { verdict: Verdict::Fail }, Input::Cleared]);
    assert_eq!(phase, Phase::Stopped);
}

#[test]
fn a_wake_of_a_stopping_machine_brings_it_back() {
    let (phase, effects) = run(
        Phase::Started,
        &[
            Input::Stop,
            Input::Start { cause: Cause::Wake },
            Input::Exited { verdict: Verdict::StayDown },
            Input::Cleared,
        ],
    );
    assert_eq!(phase, Phase::Starting { cause: Cause::Wake });
    assert_eq!(effects, [Effect::AskToEnd, Effect::Clear, Effect::Launch]);
}

#[test]
fn an_update_keeps_the_run_state() {
    let exit = Input::Exited { verdict: Verdict::StayDown };
    let (phase, _) = run(
        Phase::Started,
        &[
            Input::Update { skip_launch: false },
            Input::Prepared,
            exit,
            Input::Cleared,
            Input::Prepared,
            Input::Launched,
        ],
    );
    assert_eq!(phase, Phase::Started);
    assert_eq!(run(Phase::Stopped, &[Input::Update { skip_launch: false }, Input::Prepared]).0, Phase::Stopped);
    let (phase, _) =
        run(Phase::Suspended, &[Input::Update { skip_launch: false }, exit, Input::Cleared, Input::Prepared]);
    assert_eq!(phase, Phase::Stopped);
    let (phase, _) = run(
        Phase::Started,
        &[Input::Update { skip_launch: true }, Input::Prepared, exit, Input::Cleared, Input::Prepared],
    );
    assert_eq!(phase, Phase::Stopped);
}

#[test]
fn the_old_version_serves_while_the_new_image_is_fetched() {
    let (phase, effects) = run(Phase::Started, &[Input::Update { skip_launch: false }]);
    assert!(phase.is_up());
    assert_eq!(phase.state(), MachineState::Replacing);
    assert_eq!(effects, [Effect::Prepare]);
}

#[test]
fn a_restart_policy_is_not_applied_to_a_requested_stop() {
    let (phase, _) =
        run(Phase::Started, &[Input::Stop, Input::Exited { verdict: Verdict::RestartAfter { ms: 1 } }, Input::Cleared]);
    assert_eq!(phase, Phase::Stopped);
}

#[test]
fn after_a_host_restart_what_ran_is_started_again() {
    let step = recover(Phase::Started, Found::Nothing);
    assert_eq!(run(step.phase, &[Input::Cleared]).0, Phase::Starting { cause: Cause::Restart });
    assert_eq!(recover(Phase::Stopped, Found::Nothing).phase, Phase::Stopped);
}

#[test]
fn a_wake_that_was_never_recorded_is_found() {
    assert_eq!(recover(Phase::Stopped, Found::Running { paused: false }).phase, Phase::Started);
}

fn any_cause() -> impl Strategy<Value = Cause> {
    prop_oneof![Just(Cause::Request), Just(Cause::Wake), Just(Cause::Restart), Just(Cause::Replace)]
}

fn any_next() -> impl Strategy<Value = Next> {
    prop_oneof![
        Just(Next::Rest),
        any_cause().prop_map(|cause| Next::Start { cause }),
        any::<bool>().prop_map(|start| Next::Replace { start }),
        Just(Next::BackOff { ms: 5 }),
        Just(Next::Fail),
        Just(Next::Remove),
    ]
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::StayDown),
        Just(Verdict::RestartAfter { ms: 5 }),
        Just(Verdict::Fail),
        Just(Verdict::Remove)
    ]
}

fn any_phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        (any::<bool>(), any::<bool>()).prop_map(|(start, replacing)| Phase::Preparing { start, replacing }),
        any_cause().prop_map(|cause| Phase::Starting { cause }),
        any::<bool>().prop_map(|start| Phase::Swapping { start }),
        any_next().prop_map(|then| Phase::Ending { then }),
        any_next().prop_map(|then| Phase::Clearing { then }),
        Just(Phase::Started),
        Just(Phase::BackingOff),
        Just(Phase::Stopped),
        Just(Phase::Suspending),
        Just(Phase::Suspended),
        Just(Phase::Resuming),
        Just(Phase::Failed),
        Just(Phase::Removing),
        Just(Phase::Removed),
    ]
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        any_cause().prop_map(|cause| Input::Start { cause }),
        Just(Input::Stop),
        Just(Input::Suspend),
        any::<bool>().prop_map(|force| Input::Restart { force }),
        any::<bool>().prop_map(|skip_launch| Input::Update { skip_launch }),
        Just(Input::Destroy),
        Just(Input::Prepared),
        Just(Input::PrepareFailed),
        Just(Input::Launched),
        any_verdict().prop_map(|verdict| Input::LaunchFailed { verdict }),
        Just(Input::Paused),
        Just(Input::PauseFailed),
        Just(Input::Resumed),
        Just(Input::ResumeFailed),
        any_verdict().prop_map(|verdict| Input::Exited { verdict }),
        Just(Input::Cleared),
        Just(Input::KillDue),
        Just(Input::BackOffOver),
        Just(Input::RemoveDone),
    ]
}

/// The world under a machine: which effects are under way, and whether processes run. Answers
/// pending effects until nothing moves any more.
#[derive(Default, Debug)]
struct World {
    preparing: bool,
    launching: bool,
    running: bool,
    frozen: bool,
    pausing: bool,
    resuming: bool,
    dying: bool,
    clearing: bool,
    removing: bool,
    waiting: bool,
}

impl World {
    fn perform(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Prepare => self.preparing = true,
                Effect::Launch => {
                    assert!(!self.launching && !self.running, "launched twice: {self:?}");
                    self.launching = true;
                }
                Effect::AskToEnd => {
                    assert!(self.running && !self.frozen, "asked what does not run to end: {self:?}");
                    self.dying = true;
                }
                Effect::Kill => self.dying |= self.running,
                Effect::Pause => self.pausing = true,
                Effect::Resume => self.resuming = true,
                Effect::Clear => {
                    assert!(!self.running && !self.launching, "cleared under living processes: {self:?}");
                    self.clearing = true;
                }
                Effect::ArmBackOff { .. } => self.waiting = true,
                Effect::Remove => {
                    assert!(!self.running && !self.launching, "removed under living processes: {self:?}");
                    self.removing = true;
                }
            }
        }
    }

    /// The next thing the world reports, if anything is under way.
    fn report(&mut self, launch_works: bool) -> Option<Input> {
        let take = |flag: &mut bool| std::mem::take(flag);
        if take(&mut self.launching) {
            self.running = launch_works;
            return Some(if launch_works { Input::Launched } else { Input::LaunchFailed { verdict: Verdict::Fail } });
        }
        if take(&mut self.pausing) {
            self.frozen = self.running;
            return Some(Input::Paused);
        }
        if take(&mut self.resuming) {
            self.frozen = false;
            return Some(Input::Resumed);
        }
        if take(&mut self.dying) {
            self.running = false;
            self.frozen = false;
            return Some(Input::Exited { verdict: Verdict::StayDown });
        }
        if take(&mut self.preparing) {
            return Some(Input::Prepared);
        }
        if take(&mut self.clearing) {
            return Some(Input::Cleared);
        }
        if take(&mut self.removing) {
            return Some(Input::RemoveDone);
        }
        take(&mut self.waiting).then_some(Input::BackOffOver)
    }
}

/// The call that the agent's legality rule is asked about before an input is passed on.
fn call_of(input: Input) -> Option<Call> {
    match input {
        // A wake may come while the machine is ending; the agent lets it through.
        Input::Start { cause: Cause::Wake } => None,
        Input::Start { .. } => Some(Call::Start),
        Input::Stop => Some(Call::Stop),
        Input::Suspend => Some(Call::Suspend),
        Input::Restart { .. } => Some(Call::Restart),
        Input::Update { .. } => Some(Call::Update),
        Input::Destroy => Some(Call::Destroy { force: true }),
        _ => None,
    }
}

fn any_request() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::Start { cause: Cause::Request }),
        Just(Input::Start { cause: Cause::Wake }),
        Just(Input::Stop),
        Just(Input::Suspend),
        any::<bool>().prop_map(|force| Input::Restart { force }),
        any::<bool>().prop_map(|skip_launch| Input::Update { skip_launch }),
        Just(Input::Destroy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No input in any phase panics, and a destroyed machine stays destroyed.
    #[test]
    fn every_input_has_an_answer(phase in any_phase(), input in any_input()) {
        let next = step(phase, input);
        if matches!(phase, Phase::Removing | Phase::Removed) {
            prop_assert!(matches!(next.phase, Phase::Removing | Phase::Removed));
            prop_assert!(next.effects.is_empty());
        }
    }

    /// Whatever is asked, in any order and at any moment: processes are launched once at a time,
    /// nothing is cleared under living processes, and the machine comes to rest where it was sent.
    #[test]
    fn any_history_comes_to_rest(
        history in prop::collection::vec((any_request(), 0usize..4, any::<bool>()), 0..12)
    ) {
        let mut world = World { preparing: true, ..World::default() };
        let mut phase = CREATED;
        let mut destroyed = false;
        for (request, reports, launch_works) in history {
            let allowed = call_of(request)
                .is_none_or(|call| matches!(legality(call, phase.state()), Legality::Allowed));
            if allowed {
                destroyed |= request == Input::Destroy;
                let next = step(phase, request);
                phase = next.phase;
                world.perform(&next.effects);
            }
            for _ in 0..reports {
                let Some(input) = world.report(launch_works) else { break };
                let next = step(phase, input);
                phase = next.phase;
                world.perform(&next.effects);
            }
        }
        for _ in 0..30 {
            let Some(input) = world.report(true) else { break };
            let next = step(phase, input);
            phase = next.phase;
            world.perform(&next.effects);
        }
        prop_assert!(!phase.state().is_transient(), "stuck in {:?} with {:?}", phase, world);
        prop_assert_eq!(phase.is_up(), world.running && !world.frozen, "{:?} {:?}", phase, world);
        if destroyed {
            prop_assert_eq!(phase, Phase::Removed);
        }
    }

    /// From any recorded phase and any finding, recovery leads to rest as well.
    #[test]
    fn recovery_comes_to_rest(phase in any_phase(), running in any::<bool>(), paused in any::<bool>()) {
        let found = if running { Found::Running { paused } } else { Found::Nothing };
        let mut world = World { running, frozen: running && paused, ..World::default() };
        let first = recover(phase, found);
        // Removal kills whatever is left by itself: the driver's destroy is forced.
        if first.effects.contains(&Effect::Remove) {
            return Ok(());
        }
        let mut phase = first.phase;
        if world.frozen && first.effects.contains(&Effect::AskToEnd) {
            world.frozen = false;
        }
        world.perform(&first.effects);
        for _ in 0..30 {
            let Some(input) = world.report(true) else { break };
            let next = step(phase, input);
            phase = next.phase;
            world.perform(&next.effects);
        }
        prop_assert!(!phase.state().is_transient(), "stuck in {:?} with {:?}", phase, world);
        if phase != Phase::Removed {
            prop_assert_eq!(phase.is_up(), world.running && !world.frozen, "{:?} {:?}", phase, world);
        }
    }
}
