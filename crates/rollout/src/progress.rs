//! How far a plan is and what comes next, from the recorded history alone: whoever executes a plan
//! may die at any moment and go on from the records.
//!
//! An executor records [`Record::Started`] before it performs an action and its outcome after. It
//! performs what [`next_actions`] names (again, if it was started before a crash: effects are
//! idempotent) and drops actions in flight that are named no more (they are waits).

use std::collections::{BTreeMap, BTreeSet};

use atoll_model::MachineId;
use serde::{Deserialize, Serialize};

use crate::plan::{Effect, Plan, Step, StepId};

/// One performance: a step, or one effect of its undo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ActionId {
    pub step: StepId,
    /// Position in the step's undo; `None`: the step itself.
    pub undo: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Action {
    pub id: ActionId,
    pub effect: Effect,
}

/// What an executor writes down, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    Started {
        action: ActionId,
    },
    Done {
        action: ActionId,
    },
    /// For people to read.
    Failed {
        action: ActionId,
        reason: String,
    },
    /// A user wants it undone.
    Cancelled,
}

/// How a plan ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Machines in `left_over` serve nothing but could not be destroyed.
    Succeeded { left_over: Vec<MachineId> },
    /// Everything was taken back.
    RolledBack { reason: String, left_over: Vec<MachineId> },
    /// Taking back failed as well; what serves was left serving.
    Stuck { reason: String, undo_failures: Vec<String> },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// To be performed now, in parallel; empty never happens.
    Act(Vec<Action>),
    Finished(Verdict),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Started,
    Done,
    Failed,
}

/// The history, indexed.
struct History<'a> {
    plan: &'a Plan,
    states: BTreeMap<ActionId, State>,
    /// Why it is being taken back.
    broken: Option<String>,
    undo_failures: Vec<String>,
}

/// What to do next. A record of an unknown action is ignored.
pub fn next_actions(plan: &Plan, records: &[Record]) -> Next {
    let history = History::read(plan, records);
    let (ready, verdict) = match &history.broken {
        None => (history.forward(), Verdict::Succeeded { left_over: history.left_over() }),
        Some(reason) => history.backward(reason),
    };
    if ready.is_empty() { Next::Finished(verdict) } else { Next::Act(ready) }
}

impl<'a> History<'a> {
    fn read(plan: &'a Plan, records: &[Record]) -> Self {
        let mut history = Self { plan, states: BTreeMap::new(), broken: None, undo_failures: Vec::new() };
        for record in records {
            match record {
                Record::Started { action } => {
                    history.states.entry(*action).or_insert(State::Started);
                }
                Record::Done { action } => {
                    history.states.insert(*action, State::Done);
                }
                Record::Failed { action, reason } => {
                    history.states.insert(*action, State::Failed);
                    history.note_failure(*action, reason);
                }
                Record::Cancelled => {
                    history.broken.get_or_insert_with(|| "cancelled".to_owned());
                }
            }
        }
        history
    }

    fn note_failure(&mut self, action: ActionId, reason: &str) {
        let Some(step) = self.plan.step(action.step) else { return };
        let Some(effect) = step.effect_at(action.undo).filter(|_| step.is_essential(action.undo)) else { return };
        let text = format!("{effect}: {reason}");
        match action.undo {
            None => {
                self.broken.get_or_insert(text);
            }
            Some(_) => self.undo_failures.push(text),
        }
    }

    fn effect(&self, action: ActionId) -> Option<&'a Effect> {
        self.plan.step(action.step)?.effect_at(action.undo)
    }

    fn state(&self, step: &Step, undo: Option<u32>) -> Option<State> {
        self.states.get(&ActionId { step: step.id, undo }).copied()
    }

    /// Done, or failed without consequence.
    fn is_over(&self, step: &Step, undo: Option<u32>) -> bool {
        match self.state(step, undo) {
            Some(State::Done) => true,
            Some(State::Failed) => !step.is_essential(undo),
            Some(State::Started) | None => false,
        }
    }

    fn forward(&self) -> Vec<Action> {
        let over = |id: &StepId| self.plan.step(*id).is_none_or(|step| self.is_over(step, None));
        let ready = self.plan.steps.iter().filter(|step| !over(&step.id) && step.after.iter().all(over));
        ready.map(|step| Action { id: ActionId { step: step.id, undo: None }, effect: step.effect.clone() }).collect()
    }

    fn backward(&self, reason: &str) -> (Vec<Action>, Verdict) {
        // Effects in flight are brought to an end first, as nobody can know how far they came.
        let unsettled: Vec<Action> = self
            .plan
            .steps
            .iter()
            .filter(|step| self.state(step, None) == Some(State::Started) && !step.effect.is_wait())
            .map(|step| Action { id: ActionId { step: step.id, undo: None }, effect: step.effect.clone() })
            .collect();
        let stuck = || Verdict::Stuck { reason: reason.to_owned(), undo_failures: self.undo_failures.clone() };
        if !unsettled.is_empty() {
            return (unsettled, stuck());
        }
        let mut ready = Vec::new();
        let mut undone: BTreeSet<StepId> = BTreeSet::new();
        let mut all_undone = true;
        // Later steps first; a step is taken back when all that followed it has been.
        for step in self.plan.steps.iter().rev() {
            if self.state(step, None).is_none() {
                undone.insert(step.id);
                continue;
            }
            let followers = self.plan.steps.iter().filter(|other| other.after.contains(&step.id));
            if !followers.into_iter().all(|other| undone.contains(&other.id)) {
                all_undone = false;
                continue;
            }
            match self.next_undo(step) {
                None => {
                    undone.insert(step.id);
                }
                Some(position) => {
                    all_undone = false;
                    let id = ActionId { step: step.id, undo: Some(position) };
                    if self.states.get(&id) != Some(&State::Failed) {
                        ready.push(Action { id, effect: step.undo[position as usize].clone() });
                    }
                }
            }
        }
        let left_over = self.left_over();
        let verdict = if all_undone { Verdict::RolledBack { reason: reason.to_owned(), left_over } } else { stuck() };
        (ready, verdict)
    }

    /// The first effect of a step's undo that is not over; `None` when all are.
    fn next_undo(&self, step: &Step) -> Option<u32> {
        // A machine that this plan destroyed has come back under another id; there is nothing of the
        // old one left to take back.
        let is_gone = |machine| {
            self.plan
                .steps
                .iter()
                .any(|other| other.effect == Effect::Destroy { machine } && self.state(other, None).is_some())
        };
        let mut effects = step.undo.iter().zip(0u32..);
        effects
            .find(|(effect, position)| !is_gone(effect.machine()) && !self.is_over(step, Some(*position)))
            .map(|(_, position)| position)
    }

    fn left_over(&self) -> Vec<MachineId> {
        let failed = self.states.iter().filter(|(_, state)| **state == State::Failed);
        let destroys = failed.filter_map(|(action, _)| self.effect(*action));
        destroys.filter(|effect| matches!(effect, Effect::Destroy { .. })).map(Effect::machine).collect()
    }
}
