//! Where a machine that cannot stay goes: the snapshot that `rollout`'s placement decides on.

use std::collections::BTreeMap;

use atoll_model::{AppName, NodeName, RegionCode};
use atoll_rollout::moving::homes_after_loss;
use atoll_rollout::placement::{Placement, Room};
use atoll_store::{App, MachineFilter, MachinePhase, MachineRecord, PageRequest, Store, StoreError};

use super::MoverError;
use crate::planning::seed;
use crate::world::World;

/// One round's placements; room that was given in it is taken.
pub(super) struct Places<'a> {
    world: &'a dyn World,
    apps: BTreeMap<AppName, Placement>,
}

impl<'a> Places<'a> {
    pub fn new(world: &'a dyn World) -> Self {
        Self { world, apps: BTreeMap::new() }
    }

    /// A node for the machine, or why there is none.
    pub async fn choose(
        &mut self,
        record: &MachineRecord,
        store: &Store,
    ) -> Result<Result<(NodeName, RegionCode), String>, MoverError> {
        if !self.apps.contains_key(&record.app) {
            let nodes = self.world.nodes(&record.app).await?;
            self.apps.insert(record.app.clone(), Placement::new(nodes, seed(&record.app)));
        }
        let homes = match record.phase {
            MachinePhase::Lost => homes_of_lost(record, store).await?,
            _ => vec![record.region],
        };
        let guest = record.spec.config.resolved_guest();
        let room = Room { memory_mb: guest.map_or(0, |guest| u64::from(guest.memory_mb)), cpu_milli: 0 };
        let Some(placement) = self.apps.get_mut(&record.app) else { return Ok(Err("no node is known".to_owned())) };
        let mut refusals = Vec::new();
        for region in homes {
            match placement.place(region, room) {
                Ok(node) => return Ok(Ok((node, region))),
                Err(refusal) => refusals.push(refusal.to_string()),
            }
        }
        Ok(Err(refusals.join("; ")))
    }
}

async fn homes_of_lost(record: &MachineRecord, store: &Store) -> Result<Vec<RegionCode>, StoreError> {
    let filter = &MachineFilter { app: Some(record.app.clone()), ..MachineFilter::default() };
    let (app, machines): (App, _) = store
        .read(|tx| async move {
            let page = PageRequest::default();
            Ok::<_, StoreError>((tx.app_fetch(&record.app).await?, tx.machine_list(filter, &page).await?.items))
        })
        .await?;
    let others = machines
        .iter()
        .filter(|other| other.process_group == record.process_group)
        .filter(|other| matches!(other.phase, MachinePhase::Placed | MachinePhase::Intended))
        .count();
    let minimum = record.spec.config.services.iter().filter_map(|service| service.min_machines_running).max();
    let others = u32::try_from(others).unwrap_or(u32::MAX);
    Ok(homes_after_loss(record.region, &app.regions, others, minimum.unwrap_or(0)))
}
