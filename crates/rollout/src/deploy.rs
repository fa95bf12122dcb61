//! From an app's machines and what it should have to a [`Plan`].
//!
//! Every plan begins by having the images fetched where machines will need them: nothing changes
//! before all of them are there.
//!
//! Rolling surges: a new machine with a new id, its gate, the barrier; then the old one is cordoned,
//! every edge knows it, it drains and goes. Undone, the same happens the other way round, so that at
//! no moment fewer machines serve than before, in either direction. Old machines leave while the next
//! new ones arrive: a request that stays open holds up nobody but its own machine.
//!
//! Immediate changes all machines at once, in place: each leaves the routing, drains, is updated,
//! passes its gate and comes back. Requests meanwhile wait at the edges. When one machine fails, all
//! get the release before back, the same way.

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
    /// All in place at once.
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
    /// Machines on nodes that do not answer, to be given up.
    pub abandoned: &'a [Existing],
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

/// A machine to make.
struct New {
    machine: MachineId,
    region: RegionCode,
    node: NodeName,
}

/// What becomes of the machines of one group.
#[derive(Default)]
struct GroupChange<'a> {
    group: &'a str,
    replaced: Vec<(&'a Existing, New)>,
    in_place: Vec<&'a Existing>,
    added: Vec<New>,
    removed: Vec<&'a Existing>,
}

impl<'a> Builder<'a> {
    fn build(&mut self) -> Result<(), PlanError> {
        let request = self.request;
        let existing = request.existing.iter().map(|machine| machine.group.as_str());
        let groups: BTreeSet<&str> = existing.chain(request.desired.keys().map(|(group, _)| group.as_str())).collect();
        let changes = groups.into_iter().map(|group| self.change(group)).collect::<Result<Vec<_>, _>>()?;
        let images = self.fetch_images(&changes);
        // What must be done before anything may go without a successor; and all that is done last.
        let (mut arrivals, mut ends) = (images.clone(), Vec::new());
        for change in &changes {
            for new in &change.added {
                arrivals.push(self.arrive(&images, change.group, new));
            }
            for old in &change.in_place {
                arrivals.push(self.renew(&images, old));
            }
            let mut before = images.clone();
            for batch in change.replaced.chunks(self.batch(change.replaced.len())) {
                let arrived: Vec<StepId> =
                    batch.iter().map(|(_, new)| self.arrive(&before, change.group, new)).collect();
                ends.extend(batch.iter().zip(&arrived).map(|((old, _), arrival)| self.leave(&[*arrival], old)));
                arrivals.extend(&arrived);
                before = arrived;
            }
        }
        // What has no successor goes last, when everything that shall serve does.
        for old in changes.iter().flat_map(|change| &change.removed) {
            ends.push(self.leave(&arrivals, old));
        }
        ends.extend(arrivals);
        for lost in request.abandoned {
            self.plan.add(&ends, Effect::Abandon { machine: lost.id }, vec![]);
        }
        Ok(())
    }

    fn batch(&self, total: usize) -> usize {
        match self.request.strategy {
            Strategy::Rolling(limit) => limit.batch(total),
            // Nothing is replaced by another machine.
            Strategy::Immediate | Strategy::Scale => 1,
        }
    }

    fn change(&mut self, group: &'a str) -> Result<GroupChange<'a>, PlanError> {
        let mut change = GroupChange { group, ..GroupChange::default() };
        let mut by_region: BTreeMap<RegionCode, Vec<&'a Existing>> = BTreeMap::new();
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
            for _ in kept..*count as usize {
                change.added.push(self.place(group, *region)?);
            }
            match self.request.strategy {
                Strategy::Rolling(_) => {
                    for old in here {
                        change.replaced.push((old, self.place(group, old.region)?));
                    }
                }
                Strategy::Immediate => change.in_place.extend(here),
                Strategy::Scale => {}
            }
        }
        change.removed.extend(by_region.into_values().flatten());
        Ok(change)
    }

    fn place(&mut self, group: &str, region: RegionCode) -> Result<New, PlanError> {
        let room = self.request.room.get(group).copied().unwrap_or_default();
        let node = self.placement.place(region, room)?;
        Ok(New { machine: (self.fresh_id)(), region, node })
    }

    /// A step for each node that needs the release's image.
    fn fetch_images(&mut self, changes: &[GroupChange<'_>]) -> Vec<StepId> {
        let mut wanted: BTreeMap<&NodeName, MachineId> = BTreeMap::new();
        for change in changes {
            let successors = change.replaced.iter().map(|(_, new)| new);
            for new in change.added.iter().chain(successors) {
                wanted.entry(&new.node).or_insert(new.machine);
            }
            for old in &change.in_place {
                wanted.entry(&old.node).or_insert(old.id);
            }
        }
        let release = self.request.release;
        let prepare = |(node, machine): (&NodeName, MachineId)| {
            self.plan.add(&[], Effect::Prepare { machine, release, node: node.clone() }, vec![])
        };
        wanted.into_iter().map(prepare).collect()
    }

    /// A new machine until it serves; the last step's id.
    fn arrive(&mut self, after: &[StepId], group: &str, new: &New) -> StepId {
        let New { machine, region, ref node } = *new;
        let release = self.request.release;
        let effect = Effect::Create { machine, release, group: group.to_owned(), region, node: node.clone() };
        let created = self.plan.add(after, effect, departure(machine));
        let works = self.plan.add(&[created], Effect::Gate { machine }, vec![]);
        self.plan.add(&[works], Effect::Barrier { machine }, vec![])
    }

    /// A machine changed in place, until it serves again; the last step's id.
    fn renew(&mut self, after: &[StepId], old: &Existing) -> StepId {
        let machine = old.id;
        let is_routed = self.request.service_groups.contains(&old.group);
        let out = [Effect::Cordon { machine }, Effect::Barrier { machine }, Effect::Drain { machine }];
        let back = [Effect::Uncordon { machine }, Effect::Barrier { machine }];
        let mut steps: Vec<(Effect, Vec<Effect>)> = Vec::new();
        if is_routed {
            steps.extend(out.iter().map(|effect| {
                let undo = if matches!(effect, Effect::Cordon { .. }) { back.to_vec() } else { vec![] };
                (effect.clone(), undo)
            }));
        }
        let undo = vec![Effect::Update { machine, release: old.release }, Effect::Gate { machine }];
        steps.push((Effect::Update { machine, release: self.request.release }, undo));
        steps.push((Effect::Gate { machine }, vec![]));
        if is_routed {
            steps.extend(back.iter().map(|effect| {
                let undo = if matches!(effect, Effect::Uncordon { .. }) { out.to_vec() } else { vec![] };
                (effect.clone(), undo)
            }));
        }
        self.chain(after, steps)
    }

    /// Steps one after the other; the last one's id.
    fn chain(&mut self, after: &[StepId], steps: Vec<(Effect, Vec<Effect>)>) -> StepId {
        let mut last = after.to_vec();
        for (effect, undo) in steps {
            last = vec![self.plan.add(&last, effect, undo)];
        }
        // Nobody passes no steps.
        last.first().copied().unwrap_or(StepId(0))
    }

    /// An old machine until it is gone; the last step's id.
    fn leave(&mut self, after: &[StepId], old: &Existing) -> StepId {
        let machine = old.id;
        let back = (self.fresh_id)();
        let undo_of = |effect: &Effect| match effect {
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
        let steps = departure(machine).into_iter().map(|effect| (effect.clone(), undo_of(&effect))).collect();
        self.chain(after, steps)
    }
}

/// How a machine leaves without anyone noticing.
pub fn departure(machine: MachineId) -> Vec<Effect> {
    vec![
        Effect::Cordon { machine },
        Effect::Barrier { machine },
        Effect::Drain { machine },
        Effect::Destroy { machine },
    ]
}

/// The rule that a plan never removes the last endpoint of a live app: a machine that serves leaves
/// for good only after another one surely serves, which the plan then leaves alone.
fn keeps_an_endpoint(plan: &Plan, request: &Request<'_>) -> Result<(), PlanError> {
    let serves = |group: &str| request.service_groups.contains(group);
    let destroyed = plan.steps.iter().filter(|step| matches!(step.effect, Effect::Destroy { .. }));
    let leaving: BTreeSet<MachineId> = destroyed.map(|step| step.effect.machine()).collect();
    let stays = request.existing.iter().any(|machine| serves(&machine.group) && !leaving.contains(&machine.id));
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
            matches!(before.effect, Effect::Barrier { .. }) && arriving.contains(&before.effect.machine())
        });
        if !another_serves {
            return Err(PlanError::LastEndpoint { machine });
        }
    }
    Ok(())
}
