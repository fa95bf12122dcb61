//! From a release's record and a look at the platform to the plan of its deploy. Pure but for the
//! fresh machine ids.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use atoll_manifest::Manifest;
use atoll_model::{AppName, MachineId, RegionCode};
use atoll_rollout::Plan;
use atoll_rollout::deploy::{Existing, MaxUnavailable, PlanError, Request, Strategy, plan};
use atoll_rollout::desired::{Group, NoRegion, ScaleCount, desired};
use atoll_rollout::placement::{NodeRoom, Placement, Room};
use atoll_store::{NewRelease, Scale};

use crate::wish::{Homes, SCALE};

/// All that a plan is made from.
pub(crate) struct Situation<'a> {
    pub app: &'a AppName,
    pub content: &'a NewRelease,
    pub homes: &'a Homes,
    pub scales: &'a [Scale],
    pub nodes: Vec<NodeRoom>,
    pub existing: &'a [Existing],
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotPlan {
    #[error(transparent)]
    Region(#[from] NoRegion),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("the release's definition cannot be read")]
    Definition(#[from] serde_json::Error),
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
    pub fn plan(self, release: u64, previous: Option<u64>, generation: u64) -> Result<Plan, CannotPlan> {
        let manifest = manifest_of(self.content)?;
        let strategy = match self.content.strategy.as_str() {
            SCALE => Strategy::Scale,
            "immediate" => Strategy::Immediate,
            _ => Strategy::Rolling(MaxUnavailable(manifest.deploy.max_unavailable())),
        };
        let groups: Vec<Group> = (self.content.machine_configs.iter())
            .map(|(name, config)| Group { name: name.clone(), has_services: !config.services.is_empty() })
            .collect();
        let scaled: Vec<ScaleCount> = (self.scales.iter().cloned())
            .map(|scale| ScaleCount { group: scale.process_group, region: scale.region, count: scale.count })
            .collect();
        let wanted = desired(&groups, &self.homes.regions, self.homes.primary, &scaled)?;
        let service_groups: BTreeSet<String> =
            groups.into_iter().filter(|group| group.has_services).map(|group| group.name).collect();
        let request = Request {
            app: self.app,
            generation,
            release,
            previous: previous.filter(|_| !self.existing.is_empty()),
            strategy,
            existing: self.existing,
            desired: &wanted,
            service_groups: &service_groups,
            room: &self.room(),
        };
        let mut placement = Placement::new(self.nodes, seed(self.app));
        Ok(plan(&request, &mut placement, &mut || MachineId::from_random(rand::random()))?)
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

fn seed(app: &AppName) -> u64 {
    let mut hasher = DefaultHasher::new();
    app.as_str().hash(&mut hasher);
    hasher.finish()
}

/// Regions that have an active node, sorted.
pub(crate) fn active_regions(nodes: &[NodeRoom]) -> Vec<RegionCode> {
    let regions: BTreeSet<RegionCode> = nodes.iter().filter(|node| node.active).map(|node| node.region).collect();
    regions.into_iter().collect()
}
