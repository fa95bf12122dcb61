//! From a release's record and a look at the platform to the plan of its deploy. Beyond the look it is
//! pure but for the fresh machine ids.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use atoll_manifest::Manifest;
use atoll_model::{AppName, MachineId, NodeName, RegionCode};
use atoll_rollout::Plan;
use atoll_rollout::deploy::{Existing, MaxUnavailable, PlanError, Request, Strategy, plan};
use atoll_rollout::desired::{Group, NoRegion, desired};
use atoll_rollout::placement::{NodeRoom, Placement, Room};
use atoll_store::{NewRelease, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::asked::{Asked, Remembered};
use crate::wish::SCALE;
use crate::world::{Setback, World};

/// A plan, and what the app remembers once it is carried out.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Decision {
    pub plan: Plan,
    pub remembered: Remembered,
}

/// All that a plan is made from.
pub(crate) struct Situation<'a> {
    pub app: &'a AppName,
    pub content: &'a NewRelease,
    pub asked: Asked,
    pub remembered: Remembered,
    pub nodes: Vec<NodeRoom>,
    /// Nodes that do not answer.
    pub silent: BTreeSet<NodeName>,
    pub existing: Vec<Existing>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotPlan {
    #[error(transparent)]
    Region(#[from] NoRegion),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("the release's definition cannot be read")]
    Definition(#[from] serde_json::Error),
    #[error(
        "nothing was changed: machines of the app are on servers that do not answer ({}). Deploy when they are back, \
         give a server up with `atoll node remove --lost`, or deploy without them now with --skip-unreachable: their \
         machines go when they come back",
        list(.machines)
    )]
    Unreachable { machines: Vec<Existing> },
}

fn list(machines: &[Existing]) -> String {
    let names: Vec<String> = machines.iter().map(|machine| format!("{} on {}", machine.id, machine.node)).collect();
    names.join(", ")
}

/// The platform could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotLook {
    #[error("the platform cannot be looked at")]
    World(#[from] Setback),
    #[error("the records cannot be read")]
    Store(#[from] StoreError),
}

/// Looks at the platform and decides what to do for a release.
pub(crate) async fn decide(
    world: &dyn World,
    store: &Store,
    app: &AppName,
    content: &NewRelease,
    release: u64,
    generation: u64,
) -> Result<Result<Decision, CannotPlan>, CannotLook> {
    let (known, scales, previous) = store
        .read(|tx| async move {
            let known = tx.app_fetch(app).await?;
            Ok::<_, StoreError>((known, tx.scale_list(app).await?, tx.release_last_complete(app).await?))
        })
        .await?;
    let (nodes, existing) = (world.nodes(app).await?, world.machines(app).await?);
    let read = || Ok::<_, serde_json::Error>((manifest_of(content)?, serde_json::from_value(content.asked.clone())?));
    let (manifest, asked): (Manifest, Asked) = match read() {
        Ok(read) => read,
        Err(error) => return Ok(Err(error.into())),
    };
    let remembered = asked.outcome(&known, &scales, &manifest, &active_regions(&nodes));
    let concerned = concerned(&nodes, &existing, &remembered);
    let silent = world.silent(&concerned).await;
    let situation = Situation { app, content, asked, remembered, nodes, silent, existing };
    Ok(situation.decide(release, previous.map(|release| release.version), generation))
}

/// Nodes that the release may have to do with: where the app's machines are, and where they may go.
fn concerned(nodes: &[NodeRoom], existing: &[Existing], remembered: &Remembered) -> BTreeSet<NodeName> {
    let Remembered { homes, counts } = remembered;
    let homely = |region: &RegionCode| {
        homes.regions.contains(region)
            || homes.primary == Some(*region)
            || counts.iter().any(|count| count.region == *region)
    };
    let candidates = nodes.iter().filter(|node| node.active && homely(&node.region)).map(|node| &node.name);
    existing.iter().map(|machine| &machine.node).chain(candidates).cloned().collect()
}

/// The manifest that a release was made from.
pub(crate) fn manifest_of(content: &NewRelease) -> Result<Manifest, serde_json::Error> {
    serde_json::from_value(content.definition.clone())
}

/// How long a new machine of the release may take to work.
pub(crate) fn gate_timeout(content: &NewRelease) -> Duration {
    // A definition that cannot be read was refused before anything could be gated by it.
    manifest_of(content).unwrap_or_default().deploy.wait_timeout().0
}

impl Situation<'_> {
    pub fn decide(mut self, release: u64, previous: Option<u64>, generation: u64) -> Result<Decision, CannotPlan> {
        let manifest = manifest_of(self.content)?;
        let strategy = match self.content.strategy.as_str() {
            SCALE => Strategy::Scale,
            "immediate" => Strategy::Immediate,
            _ => Strategy::Rolling(MaxUnavailable(manifest.deploy.max_unavailable())),
        };
        let groups: Vec<Group> = (self.content.machine_configs.iter())
            .map(|(name, config)| Group { name: name.clone(), has_services: !config.services.is_empty() })
            .collect();
        let Remembered { homes, counts } = &self.remembered;
        let mut wanted = desired(&groups, &homes.regions, homes.primary, counts)?;
        let existing = std::mem::take(&mut self.existing);
        let (abandoned, existing): (Vec<_>, Vec<_>) =
            existing.into_iter().partition(|machine| self.silent.contains(&machine.node));
        if !abandoned.is_empty() && !self.asked.skip_unreachable {
            return Err(CannotPlan::Unreachable { machines: abandoned });
        }
        for node in &mut self.nodes {
            node.active &= !self.silent.contains(&node.name);
        }
        if self.asked.skip_unreachable {
            let answers = active_regions(&self.nodes);
            wanted.retain(|(_, region), _| answers.contains(region));
        }
        let service_groups: BTreeSet<String> =
            groups.into_iter().filter(|group| group.has_services).map(|group| group.name).collect();
        let request = Request {
            app: self.app,
            generation,
            release,
            previous: previous.filter(|_| !existing.is_empty()),
            strategy,
            existing: &existing,
            abandoned: &abandoned,
            desired: &wanted,
            service_groups: &service_groups,
            room: &self.room(),
        };
        let mut placement = Placement::new(std::mem::take(&mut self.nodes), seed(self.app));
        let plan = plan(&request, &mut placement, &mut || MachineId::from_random(rand::random()))?;
        Ok(Decision { plan, remembered: self.remembered })
    }

    /// Processors are shared, so only memory is promised.
    fn room(&self) -> BTreeMap<String, Room> {
        let guests = self.content.machine_configs.iter().filter_map(|(group, config)| {
            let guest = config.resolved_guest().ok()?;
            Some((group.clone(), Room { memory_mb: u64::from(guest.memory_mb), cpu_milli: 0 }))
        });
        guests.collect()
    }
}

pub(crate) fn seed(app: &AppName) -> u64 {
    let mut hasher = DefaultHasher::new();
    app.as_str().hash(&mut hasher);
    hasher.finish()
}

/// Regions that have an active node, sorted.
pub(crate) fn active_regions(nodes: &[NodeRoom]) -> Vec<RegionCode> {
    let regions: BTreeSet<RegionCode> = nodes.iter().filter(|node| node.active).map(|node| node.region).collect();
    regions.into_iter().collect()
}
