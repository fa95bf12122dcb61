//! Machines that servers have and the records do not: they were made after the backup that these records
//! come from. They go on all the while; here they are taken back into the records, so that they can be
//! steered again. What cannot be taken back is kept in a list with the reason, and tried again.
//!
//! That there are some shows in the catalogue; what is taken back is what the machine's worker says.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use atoll_model::row::MachineRow;
use atoll_model::{MachineId, NodeName};
use atoll_rpc::contract::MachineView;
use atoll_rpc::proto::worker as proto;
use atoll_signals::with_causes;
use atoll_store::{FoundMachine, MachineSpec, NewMachine, Observation};

use crate::machines::{decode, timed_short};
use crate::{Control, ControlError, ControlResult};

/// Between two looks at the catalogue.
const EVERY: Duration = Duration::from_secs(5);

/// A machine that is not in the records.
#[derive(Clone, Debug)]
pub struct UnknownMachine {
    pub row: Arc<MachineRow>,
    /// Why it is not taken back.
    pub why: String,
}

/// Those of the last look.
#[derive(Default)]
pub struct Unknown(ArcSwap<BTreeMap<MachineId, UnknownMachine>>);

/// A row of the catalogue, and what it says for the records.
pub type Observed = (Arc<MachineRow>, Observation);

impl Control {
    /// Machines that could not be taken back at the last look, by id.
    pub fn machines_unknown(&self) -> Vec<UnknownMachine> {
        self.unknown.0.load().values().cloned().collect()
    }

    /// Ends a machine that could not be taken back.
    pub async fn machine_unknown_destroy(&self, id: MachineId) -> ControlResult<()> {
        let unknown = self.unknown.0.load_full();
        let found = unknown.get(&id);
        let found = found.ok_or_else(|| ControlError::not_found(format!("no unknown machine has the id {id}")))?;
        self.machine_end(&found.row.node, id).await?;
        self.unknown.0.rcu(|unknown| {
            let mut left = BTreeMap::clone(unknown);
            left.remove(&id);
            left
        });
        Ok(())
    }

    /// Runs until the process ends. `rows` is the catalogue as it is now.
    pub async fn take_back_forever(self: Arc<Self>, rows: impl Fn() -> Vec<Observed> + Send + Sync) {
        let mut known = HashSet::new();
        loop {
            if let Err(error) = self.take_back(&mut known, &rows).await {
                tracing::warn!(error = with_causes(&error), "cannot look for machines that are not in the records");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// One look. `known` are in the records, or were: one that left them has ended.
    async fn take_back(
        &self,
        known: &mut HashSet<MachineId>,
        rows: &(impl Fn() -> Vec<Observed> + Sync),
    ) -> ControlResult<()> {
        let mut present: BTreeMap<_, _> = rows().into_iter().map(|(row, _)| (row.id, row)).collect();
        known.retain(|id| present.contains_key(id));
        let nodes = self.directory.nodes();
        let is_member = |node: &NodeName| nodes.get(node).is_some_and(|known| !known.node.state.is_over());
        present.retain(|id, row| !known.contains(id) && row.state.is_active() && is_member(&row.node));
        let ids: &Vec<MachineId> = &present.keys().copied().collect();
        known.extend(self.store.read(|tx| async move { tx.machines_recorded(ids).await }).await?);
        present.retain(|id, _| !known.contains(id));

        let before = self.unknown.0.load_full();
        let (mut unknown, mut taken_back) = (BTreeMap::new(), HashSet::new());
        for (id, row) in present {
            let (node, app) = (&row.node, &row.app);
            match self.take_back_one(&row).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(machine = %id, %node, %app, "took back a machine that was not in the records");
                    taken_back.insert(id);
                }
                Err(error) => {
                    let why = error.message;
                    if before.get(&id).is_none_or(|before| before.why != why) {
                        tracing::warn!(machine = %id, %node, %app, why, "a machine that is not in the records stays so");
                    }
                    unknown.insert(id, UnknownMachine { row, why });
                }
            }
        }
        self.unknown.0.store(Arc::new(unknown));
        // What was heard before they had records is not noted there.
        let now = self.now_ms();
        for (row, seen) in rows().iter().filter(|(row, _)| taken_back.contains(&row.id)) {
            self.store.write(|tx| async move { tx.machine_observe(row.id, seen, now).await }).await?;
        }
        Ok(())
    }

    /// Says whether there was something to take back.
    async fn take_back_one(&self, row: &MachineRow) -> ControlResult<bool> {
        // A silent server is not waited for once for each of its machines.
        if !self.directory.nodes().get(&row.node).is_some_and(|known| known.heard) {
            return Err(ControlError::unavailable("its server cannot be reached now"));
        }
        let request = timed_short(proto::MachineRequest { machine: row.id.to_string() });
        let view: MachineView = match self.directory.worker(&row.node)?.get(request).await {
            Ok(reply) => decode(&reply.into_inner().machine_json)?,
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(false),
            Err(status) => return Err(status.into()),
        };
        // It ended since its row was written.
        if !view.state.is_active() {
            return Ok(false);
        }
        let (found, now) = (&found(view.clone()), self.now_ms());
        self.store.write(|tx| async move { tx.machine_take_back(found, now).await }).await?;
        self.policies_check(&view).await?;
        Ok(true)
    }
}

fn found(view: MachineView) -> FoundMachine {
    FoundMachine {
        private_ip: view.private_ipv6,
        state: view.state,
        created_at_ms: view.created_at_ms,
        machine: NewMachine {
            id: Some(view.id),
            app: view.app,
            name: view.name,
            idempotency_key: None,
            node: view.node,
            region: view.region,
            process_group: view.config.process_group().to_owned(),
            spec: MachineSpec {
                version: view.version,
                config: view.config,
                image: Some(format!("{}@{}", view.image.reference, view.image.digest)),
                release_version: None,
                secrets_version: view.secrets_version,
            },
            cordoned: view.cordoned,
        },
    }
}
