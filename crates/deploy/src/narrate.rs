//! What people are told of a deploy, as events. Pure.

use std::collections::BTreeMap;

use atoll_model::wire::{DeployEvent, DeployEventKind};
use atoll_model::{MachineId, RegionCode};
use atoll_rollout::{Action, Effect, Plan, Verdict};
use serde::{Deserialize, Serialize};

/// An event as it is recorded; its number and moment are the record's.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    pub kind: DeployEventKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionCode>,
    pub text: String,
}

impl Note {
    pub fn general(kind: DeployEventKind, text: impl Into<String>) -> Self {
        Self { kind, machine: None, region: None, text: text.into() }
    }

    /// `number` counts from 1, as records do.
    pub fn into_event(self, number: u64, at_ms: u64) -> DeployEvent {
        DeployEvent {
            index: number.saturating_sub(1),
            at_ms,
            kind: self.kind,
            machine: self.machine,
            region: self.region,
            text: self.text,
        }
    }
}

/// Knows the machines of a plan.
pub(crate) struct Narrator {
    regions: BTreeMap<MachineId, RegionCode>,
}

impl Narrator {
    pub fn new(plan: &Plan) -> Self {
        let mut regions = BTreeMap::new();
        for step in &plan.steps {
            for effect in step.undo.iter().chain([&step.effect]) {
                if let Effect::Create { machine, region, .. } = effect {
                    regions.insert(*machine, *region);
                    // What comes back when an old machine's departure is undone is where that was.
                    regions.entry(step.effect.machine()).or_insert(*region);
                }
            }
        }
        Self { regions }
    }

    pub fn note(&self, kind: DeployEventKind, machine: MachineId, text: impl Into<String>) -> Note {
        Note { kind, machine: Some(machine), region: self.regions.get(&machine).copied(), text: text.into() }
    }

    pub fn begun(&self, action: &Action) -> Note {
        let text = match &action.effect {
            Effect::Prepare { node, .. } => format!("having the image fetched on {node}"),
            Effect::Create { region, node, .. } => format!("creating in {region} on {node}"),
            Effect::Copy { node, .. } => format!("making it on {node}"),
            Effect::Update { release, .. } => format!("updating to release {release}"),
            Effect::Gate { .. } => "waiting for it to work".to_owned(),
            Effect::Barrier { .. } => "waiting for every edge to know".to_owned(),
            Effect::Cordon { .. } => "taking it out of the routing".to_owned(),
            Effect::Uncordon { .. } => "putting it back into the routing".to_owned(),
            Effect::Drain { .. } => "letting open requests end".to_owned(),
            Effect::Destroy { .. } => "stopping and destroying it".to_owned(),
            Effect::Abandon { .. } => "giving it up: it goes when its server is back".to_owned(),
        };
        self.note(DeployEventKind::Progress, action.effect.machine(), undoing(action, text))
    }

    /// Not every end is worth a line: the next beginning tells as much.
    pub fn ended(&self, action: &Action) -> Option<Note> {
        let text = match &action.effect {
            Effect::Create { .. } | Effect::Copy { .. } => "created",
            Effect::Update { .. } => "updated",
            Effect::Gate { .. } => "works",
            Effect::Destroy { .. } => "destroyed",
            _ => return None,
        };
        Some(self.note(DeployEventKind::Done, action.effect.machine(), undoing(action, text.to_owned())))
    }

    pub fn failed(&self, action: &Action, reason: &str, log: &[String]) -> Vec<Note> {
        let machine = action.effect.machine();
        let what = match &action.effect {
            Effect::Gate { .. } => reason.to_owned(),
            effect => format!("{}: {reason}", short(effect)),
        };
        let mut notes = vec![self.note(DeployEventKind::Failed, machine, undoing(action, what))];
        notes.extend(log.iter().map(|line| self.note(DeployEventKind::Log, machine, line.as_str())));
        notes
    }
}

fn undoing(action: &Action, text: String) -> String {
    if action.id.undo.is_some() { format!("undo: {text}") } else { text }
}

fn short(effect: &Effect) -> &'static str {
    match effect {
        Effect::Prepare { .. } => "the image cannot be fetched",
        Effect::Create { .. } | Effect::Copy { .. } => "it cannot be created",
        Effect::Update { .. } => "it cannot be updated",
        Effect::Gate { .. } => "it does not work",
        Effect::Barrier { .. } => "not every edge knows it",
        Effect::Cordon { .. } => "it cannot be taken out of the routing",
        Effect::Uncordon { .. } => "it cannot be put back into the routing",
        Effect::Drain { .. } => "requests stayed open",
        Effect::Destroy { .. } => "it cannot be destroyed",
        Effect::Abandon { .. } => "it cannot be given up",
    }
}

/// The last event.
pub(crate) fn ending(release: u64, verdict: &Verdict) -> Note {
    let left = |machines: &[MachineId]| match machines {
        [] => String::new(),
        machines => {
            let names: Vec<String> = machines.iter().map(MachineId::to_string).collect();
            format!("; it serves nothing, but could not be destroyed yet: {}", names.join(", "))
        }
    };
    match verdict {
        Verdict::Succeeded { left_over } => {
            Note::general(DeployEventKind::Complete, format!("release {release} is in place{}", left(left_over)))
        }
        Verdict::RolledBack { reason, left_over } => Note::general(
            DeployEventKind::RolledBack,
            format!("release {release} was taken back: {reason}{}", left(left_over)),
        ),
        Verdict::Stuck { reason, undo_failures } => Note::general(
            DeployEventKind::RolledBack,
            format!(
                "release {release} failed: {reason}; taking it back failed as well, what serves was left serving: {}",
                undo_failures.join("; ")
            ),
        ),
    }
}
