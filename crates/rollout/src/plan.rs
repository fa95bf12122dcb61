//! A plan: steps with ids, what each waits for, and what takes it back. Every effect is idempotent
//! and names its machine, so that performing it again after a crash is harmless.

use std::collections::BTreeSet;
use std::fmt;

use atoll_model::{AppName, MachineId, NodeName, RegionCode};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct StepId(pub u32);

/// A release by its number; image, config and secrets' version hang on it as a whole.
pub type ReleaseVersion = u64;

/// One thing to do to the world.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Effect {
    /// Have the release's image fetched and unpacked on a node, for `machine` and others there.
    Prepare {
        machine: MachineId,
        release: ReleaseVersion,
        node: NodeName,
    },
    /// Record, create and start a machine.
    Create {
        machine: MachineId,
        release: ReleaseVersion,
        group: String,
        region: RegionCode,
        node: NodeName,
    },
    /// Record and create a machine like another one; of one that its node lost, the same id again.
    Copy {
        machine: MachineId,
        of: MachineId,
        node: NodeName,
        /// Else it rests there.
        launch: bool,
    },
    /// Change a machine in place.
    Update {
        machine: MachineId,
        release: ReleaseVersion,
    },
    /// Wait until the machine has shown that it works ([`crate::gate`]).
    Gate {
        machine: MachineId,
    },
    /// Wait until every edge acknowledges the machine's present row.
    Barrier {
        machine: MachineId,
    },
    Cordon {
        machine: MachineId,
    },
    Uncordon {
        machine: MachineId,
    },
    /// Wait until nothing is open on the machine, at most as long as its kill timeout.
    Drain {
        machine: MachineId,
    },
    Destroy {
        machine: MachineId,
    },
    /// Record that a machine whose node does not answer shall go: it ends when the node is back.
    Abandon {
        machine: MachineId,
    },
}

impl Effect {
    pub fn machine(&self) -> MachineId {
        match self {
            Self::Prepare { machine, .. }
            | Self::Create { machine, .. }
            | Self::Copy { machine, .. }
            | Self::Update { machine, .. }
            | Self::Gate { machine }
            | Self::Barrier { machine }
            | Self::Cordon { machine }
            | Self::Uncordon { machine }
            | Self::Drain { machine }
            | Self::Destroy { machine }
            | Self::Abandon { machine } => *machine,
        }
    }

    /// Only waits: may be abandoned without a trace.
    pub fn is_wait(&self) -> bool {
        matches!(self, Self::Prepare { .. } | Self::Gate { .. } | Self::Barrier { .. } | Self::Drain { .. })
    }

    /// Whether its failure fails the plan. A drain that times out and a machine out of the routing
    /// that cannot be destroyed do not: the latter is reported as left over.
    pub fn is_essential(&self) -> bool {
        !matches!(self, Self::Drain { .. } | Self::Destroy { .. })
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare { release, node, .. } => write!(f, "have {node} fetch the image of v{release}"),
            Self::Create { machine, release, group, region, node } => {
                write!(f, "create {machine} ({group}, v{release}) in {region} on {node}")
            }
            Self::Copy { machine, of, node, .. } => write!(f, "make {machine} on {node} like {of}"),
            Self::Update { machine, release } => write!(f, "update {machine} in place to v{release}"),
            Self::Gate { machine } => write!(f, "wait until {machine} works"),
            Self::Barrier { machine } => write!(f, "wait until every edge knows {machine}"),
            Self::Cordon { machine } => write!(f, "cordon {machine}"),
            Self::Uncordon { machine } => write!(f, "uncordon {machine}"),
            Self::Drain { machine } => write!(f, "drain {machine}"),
            Self::Destroy { machine } => write!(f, "destroy {machine}"),
            Self::Abandon { machine } => write!(f, "give up {machine}"),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    pub id: StepId,
    /// Steps that must be done before; always earlier in the list.
    pub after: Vec<StepId>,
    pub effect: Effect,
    /// What takes the step back, in this order.
    pub undo: Vec<Effect>,
}

impl Step {
    /// The step's own effect (`None`) or one of its undo.
    pub fn effect_at(&self, undo: Option<u32>) -> Option<&Effect> {
        match undo {
            None => Some(&self.effect),
            Some(position) => self.undo.get(position as usize),
        }
    }

    /// Whether the failure of an effect fails what it is part of: the plan, or taking it back.
    ///
    /// A machine that the plan made is removed for good, whatever of its leave-taking fails: where its
    /// node does not answer, nobody reaches it either. And a machine that got its former release back
    /// belongs into the routing even if it does not work: it is the one that was there before.
    pub fn is_essential(&self, undo: Option<u32>) -> bool {
        let Some(effect) = self.effect_at(undo) else { return false };
        match (&self.effect, undo, effect) {
            (Effect::Create { .. }, Some(_), _) => false,
            (Effect::Update { .. }, Some(_), Effect::Gate { .. }) => false,
            _ => effect.is_essential(),
        }
    }
}

/// Steps from what is to what should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub app: AppName,
    /// Of the app's plans; an executor with an older one is refused.
    pub generation: u64,
    pub release: ReleaseVersion,
    /// What an undo returns to; `None` for a first deploy.
    pub previous: Option<ReleaseVersion>,
    pub steps: Vec<Step>,
}

/// The plan has been overtaken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this plan has generation {plan}, but the app is at {current}: another deploy has taken over")]
pub struct StaleGeneration {
    pub plan: u64,
    pub current: u64,
}

impl Plan {
    /// To be asked in the same write that records an intent or an outcome.
    pub fn check_generation(&self, current: u64) -> Result<(), StaleGeneration> {
        if self.generation == current { Ok(()) } else { Err(StaleGeneration { plan: self.generation, current }) }
    }

    pub fn step(&self, id: StepId) -> Option<&Step> {
        self.steps.get(id.0 as usize).filter(|step| step.id == id)
    }

    pub(crate) fn add(&mut self, after: &[StepId], effect: Effect, undo: Vec<Effect>) -> StepId {
        let id = StepId(self.steps.len() as u32);
        self.steps.push(Step { id, after: after.to_vec(), effect, undo });
        id
    }

    /// All steps that are surely done when `id` begins.
    pub(crate) fn ancestors(&self, id: StepId) -> BTreeSet<StepId> {
        let mut found = BTreeSet::new();
        let mut open: Vec<StepId> = vec![id];
        while let Some(step) = open.pop().and_then(|id| self.step(id)) {
            open.extend(step.after.iter().filter(|before| found.insert(**before)));
        }
        found
    }
}

impl fmt::Display for Plan {
    /// A line a step, so that plans can be compared as texts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plan {} of {}: ", self.generation, self.app)?;
        match self.previous {
            Some(previous) => writeln!(f, "v{previous} to v{}", self.release)?,
            None => writeln!(f, "first deploy, v{}", self.release)?,
        }
        for step in &self.steps {
            write!(f, "{:>3}  {}", step.id.0, step.effect)?;
            if let Some((last, rest)) = step.after.split_last() {
                let rest: String = rest.iter().map(|id| format!("{}, ", id.0)).collect();
                write!(f, "  (after {rest}{})", last.0)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
