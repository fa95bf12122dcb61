//! From an app's machines and what it should have to a [`Plan`].
//!
//! Rolling surges: a new machine with a new id, its gate, the barrier; then the old one is cordoned,
//! every edge knows it, it drains and goes. Undone, the same happens the other way round, so that at
//! no moment fewer machines serve than before, in either direction.

use std::collections::{BTreeMap, BTreeSet};

use atoll_model::{AppName, MachineId, NodeName, RegionCode};
use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::placement::{Placement, PlacementError, Room};
use crate::plan::{Effect, Plan, ReleaseVersion, StepId};

/// A machine of the app as it is now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Existing {
    pub id: MachineId,
    pub group: String,
    pub region: RegionCode,
    pub node: NodeName,
    pub release: ReleaseVersion,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// New machines replace old ones, so many of a group at a time.
    Rolling(MaxUnavailable),
    /// All in place at once, no gates.
    Immediate,
    /// No release: only the counts change, machines that fit stay.
    Scale,
}

/// From 1 a count, below a fraction of the group's machines (rounded up).
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct MaxUnavailable(pub f64);

impl Default for MaxUnavailable {
    fn default() -> Self {
        Self(0.33)
    }
}

impl MaxUnavailable {
    /// Machines of a group of `total` that may be replaced at a time; at least one.
    pub fn batch(self, total: usize) -> usize {
        let count = if self.0 >= 1.0 { self.0.floor() } else { (total as f64 * self.0).ceil() };
        // A float to integer conversion saturates, so nonsense becomes one or all.
        (count as usize).clamp(1, total.max(1))
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub app: &'a AppName,
    pub generation: u64,
    pub release: ReleaseVersion,
    pub previous: Option<ReleaseVersion>,
    pub strategy: Strategy,
    pub existing: &'a [Existing],
    pub desired: &'a Desired,
    /// Groups that the proxy reaches.
    pub service_groups: &'a BTreeSet<String>,
    /// What one machine of a group takes; absent groups take nothing.
    pub room: &'a BTreeMap<String, Room>,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Placement(#[from] PlacementError),
    #[error("this would leave the app without any machine; destroy the app if that is meant")]
    Nothing,
    #[error("this would take the app's last serving machine away: {machine}")]
    LastEndpoint { machine: MachineId },
}

/// The plan, with ids of new machines from `fresh_id`.
pub fn plan(
    request: &Request<'_>,
    placement: &mut Placement,
    fresh_id: &mut dyn FnMut() -> MachineId,
) -> Result<Plan, PlanError> {
    if request.desired.values().all(|count| *count == 0) {
        return Err(PlanError::Nothing);
    }
    let plan = Plan {
        app: request.app.clone(),
        generation: request.generation,
        release: request.release,
        previous: request.previous,
        steps: Vec::new(),
    };
    let mut builder = Builder { request, placement, fresh_id, plan };
    builder.build()?;
    let plan = builder.plan;
    keeps_an_endpoint(&plan, request)?;
    Ok(plan)
}

struct Builder<'a> {
    request: &'a Request<'a>,
    placement: &'a mut Placement,
    fresh_id: &'a mut dyn FnMut() -> MachineId,
    plan: Plan,
}

/// What becomes of the machines of one group.
#[derive(Default)]
struct GroupChange<'a> {
    replaced: Vec<&'a Existing>,
    added: Vec<RegionCode>,
    removed: Vec<&'a Existing>,
}

impl<'a> Builder<'a> {
    fn build(&mut self) -> Result<(), PlanError> {
        let request = self.request;
        let existing = request.existing.iter().map(|machine| machine.group.as_str());
        let groups: BTreeSet<&str> = existing.chain(request.desired.keys().map(|(group, _)| group.as_str())).collect();
        let mut arrivals = Vec::new();
        let mut removed = Vec::new();
        for group in groups {
            let change = self.change(group);
            for region in change.added {
                arrivals.push(self.arrive(&[], group, region)?);
            }
            match request.strategy {
                Strategy::Rolling(limit) => {
                    let mut before: Vec<StepId> = Vec::new();
                    for batch in change.replaced.chunks(limit.batch(change.replaced.len())) {
                        let mut done = Vec::new();
                        for old in batch {
                            let arrival = self.arrive(&before, group, old.region)?;
                            arrivals.push(arrival);
                            done.push(self.leave(&[arrival], old));
                        }
                        before = done;
                    }
                }
                Strategy::Immediate => {
                    for old in change.replaced {
                        let effect = Effect::Update { machine: old.id, release: request.release };
                        let undo = vec![Effect::Update { machine: old.id, release: old.release }];
                        arrivals.push(self.plan.add(&[], effect, undo));
                    }
                }
                Strategy::Scale => {}
            }
            removed.extend(change.removed);
        }
        // What has no successor goes last, when everything that shall serve does.
        for old in removed {
            self.leave(&arrivals, old);
        }
        Ok(())
    }

    fn change(&self, group: &str) -> GroupChange<'a> {
        let mut change = GroupChange::default();
        let mut by_region: BTreeMap<RegionCode, Vec<&Existing>> = BTreeMap::new();
        for machine in self.request.existing.iter().filter(|machine| machine.group == group) {
            by_region.entry(machine.region).or_default().push(machine);
        }
        for ((name, region), count) in self.request.desired {
            if name != group {
                continue;
            }
            let mut here = by_region.remove(region).unwrap_or_default();
            here.sort_by_key(|machine| machine.id);
            let kept = here.len().min(*count as usize);
            change.removed.extend(here.split_off(kept));
            change.replaced.extend(here);
            change.added.extend(std::iter::repeat_n(*region, *count as usize - kept));
        }
        change.removed.extend(by_region.into_values().flatten());
        change
    }

    /// A new machine until it serves; the last step's id.
    fn arrive(&mut self, after: &[StepId], group: &str, region: RegionCode) -> Result<StepId, PlanError> {
        let room = self.request.room.get(group).copied().unwrap_or_default();
        let node = self.placement.place(region, room)?;
        let machine = (self.fresh_id)();
        let effect = Effect::Create { machine, release: self.request.release, group: group.to_owned(), region, node };
        let created = self.plan.add(after, effect, departure(machine));
        if self.request.strategy == Strategy::Immediate {
            return Ok(created);
        }
        let works = self.plan.add(&[created], Effect::Gate { machine }, vec![]);
        Ok(self.plan.add(&[works], Effect::Barrier { machine }, vec![]))
    }

    /// An old machine until it is gone; the last step's id.
    fn leave(&mut self, after: &[StepId], old: &Existing) -> StepId {
        let machine = old.id;
        let back = (self.fresh_id)();
        let mut last = after.to_vec();
        for effect in departure(machine) {
            let undo = match &effect {
                Effect::Cordon { .. } => vec![Effect::Uncordon { machine }, Effect::Barrier { machine }],
                Effect::Destroy { .. } => vec![
                    Effect::Create {
                        machine: back,
                        release: old.release,
                        group: old.group.clone(),
                        region: old.region,
                        node: old.node.clone(),
                    },
                    Effect::Gate { machine: back },
                    Effect::Barrier { machine: back },
                ],
                _ => vec![],
            };
            last = vec![self.plan.add(&last, effect, undo)];
        }
        // `departure` is never empty, so this is its last step.
        last.first().copied().unwrap_or(StepId(0))
    }
}

/// How a machine leaves without anyone noticing.
fn departure(machine: MachineId) -> Vec<Effect> {
    vec![
        Effect::Cordon { machine },
        Effect::Barrier { machine },
        Effect::Drain { machine },
        Effect::Destroy { machine },
    ]
}

/// The rule that a plan never removes the last endpoint of a live app: each cordon of a machine that
/// serves comes after another one surely serves, which the plan then leaves alone.
fn keeps_an_endpoint(plan: &Plan, request: &Request<'_>) -> Result<(), PlanError> {
    let cordoned: BTreeSet<MachineId> = plan
        .steps
        .iter()
        .filter(|step| matches!(step.effect, Effect::Cordon { .. }))
        .map(|step| step.effect.machine())
        .collect();
    let serves = |group: &str| request.service_groups.contains(group);
    let stays = request.existing.iter().any(|machine| serves(&machine.group) && !cordoned.contains(&machine.id));
    if stays {
        return Ok(());
    }
    let arriving: BTreeSet<MachineId> = plan
        .steps
        .iter()
        .filter(|step| matches!(&step.effect, Effect::Create { group, .. } if serves(group)))
        .map(|step| step.effect.machine())
        .collect();
    for step in &plan.steps {
        let Effect::Cordon { machine } = step.effect else { continue };
        if !request.existing.iter().any(|old| old.id == machine && serves(&old.group)) {
            continue;
        }
        let another_serves = plan.ancestors(step.id).into_iter().filter_map(|id| plan.step(id)).any(|before| {
            let arrived = match request.strategy {
                Strategy::Immediate => matches!(before.effect, Effect::Create { .. }),
                _ => matches!(before.effect, Effect::Barrier { .. }),
            };
            arrived && arriving.contains(&before.effect.machine())
        });
        if !another_serves {
            return Err(PlanError::LastEndpoint { machine });
        }
    }
    Ok(())
}
