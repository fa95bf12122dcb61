//! Machines that must live elsewhere: those of a draining node, moved before they are missed, and
//! those of a lost one, made again. Looks at the whole truth each time: what must move, what is on
//! its way, who is free to take it. `rollout` decides where to and in which order.

mod one;
mod place;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use atoll_model::{AppName, MachineId, NodeName};
use atoll_store::{ErrorKind, MachineRecord, Move, NewMove, StoreError};
use tokio::task::{self, JoinSet};

use crate::engine::Engine;
use crate::moves::place::Places;
use crate::world::Setback;

/// Moves that are performed at once.
const MAX_AT_ONCE: usize = 8;
/// Machines that are looked at in one round.
const MAX_DISPLACED: u32 = 1000;

/// A machine that cannot stay where it is, and what comes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaving {
    pub machine: MachineId,
    pub app: AppName,
    pub outlook: Outlook,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outlook {
    /// On its way.
    Moving { to: NodeName },
    /// Will be, and to this node as things are.
    Next { to: NodeName },
    /// Not as things are; why, for people.
    Stays { why: String },
}

pub(crate) struct Mover {
    engine: Arc<Engine>,
}

/// What the records say of machines that cannot stay.
struct Truth {
    displaced: Vec<MachineRecord>,
    moves: BTreeMap<MachineId, Move>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MoverError {
    #[error("the records of moves cannot be used")]
    Store(#[from] StoreError),
    #[error("the platform cannot be looked at")]
    World(#[from] Setback),
}

impl Mover {
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// Runs until it is dropped, which stops everything at once; the records say how to go on.
    pub async fn run_forever(self: Arc<Self>) {
        let mut tasks: JoinSet<()> = JoinSet::new();
        let mut held: HashMap<task::Id, MachineId> = HashMap::new();
        loop {
            match self.due(held.values().copied().collect()).await {
                Ok(due) => {
                    for it in due.into_iter().take(MAX_AT_ONCE.saturating_sub(held.len())) {
                        let machine = it.machine;
                        held.insert(tasks.spawn(self.clone().perform(it)).id(), machine);
                    }
                }
                Err(error) => tracing::warn!(%error, ?error, "cannot look for machines to move"),
            }
            tokio::select! {
                () = tokio::time::sleep(self.engine.timing.search) => {}
                Some(ended) = tasks.join_next_with_id() => {
                    let task = match ended {
                        Ok((task, ())) => task,
                        Err(error) => {
                            tracing::error!(%error, "a move ended abnormally");
                            error.id()
                        }
                    };
                    held.remove(&task);
                }
            }
        }
    }

    /// What comes of the machines that cannot stay on `node`.
    pub async fn leaving(&self, node: &NodeName) -> Result<Vec<Leaving>, MoverError> {
        let truth = self.truth().await?;
        let mut places = Places::new(&*self.engine.world);
        let mut leaving = Vec::new();
        for record in truth.displaced.iter().filter(|record| record.node == *node) {
            let outlook = match truth.moves.get(&record.id) {
                Some(Move { failed: None, node, .. }) => Outlook::Moving { to: node.clone() },
                Some(Move { failed: Some(why), .. }) => {
                    Outlook::Stays { why: format!("{why}; it is tried again before long") }
                }
                None => match places.choose(record, &self.engine.store).await? {
                    Ok((to, _)) => Outlook::Next { to },
                    Err(why) => Outlook::Stays { why },
                },
            };
            leaving.push(Leaving { machine: record.id, app: record.app.clone(), outlook });
        }
        Ok(leaving)
    }

    /// Moves to perform now: open ones that nobody performs, and new ones, recorded.
    async fn due(&self, held: Vec<MachineId>) -> Result<Vec<Move>, MoverError> {
        let truth = self.truth().await?;
        let now = (self.engine.now_ms)();
        let mut due = Vec::new();
        for it in truth.moves.values().filter(|it| it.failed.is_none() && !held.contains(&it.machine)) {
            if self.lease(it.machine).await? {
                due.push(it.clone());
            }
        }
        let mut places = Places::new(&*self.engine.world);
        for record in &truth.displaced {
            if held.len() + due.len() >= MAX_AT_ONCE {
                break;
            }
            let may_begin = truth.moves.get(&record.id).is_none_or(|it| it.failed.is_some() && it.retry_at_ms <= now);
            if may_begin && let Some(begun) = self.begin(record, &mut places).await? {
                due.push(begun);
            }
        }
        Ok(due)
    }

    /// Decides where a machine goes and records it; `None` when it cannot go now.
    async fn begin(&self, record: &MachineRecord, places: &mut Places<'_>) -> Result<Option<Move>, MoverError> {
        let engine = &self.engine;
        let (node, region) = match places.choose(record, &engine.store).await? {
            Ok(place) => place,
            Err(why) => {
                tracing::debug!(machine = %record.id, why, "a machine stays for now");
                return Ok(None);
            }
        };
        let is_lost = record.phase == atoll_store::MachinePhase::Lost;
        let new = &NewMove {
            machine: record.id,
            successor: if is_lost { record.id } else { MachineId::from_random(rand::random()) },
            node,
            region,
            executor: engine.executor.clone(),
            leased_until_ms: self.lease_end(),
        };
        let now = (engine.now_ms)();
        let begun = engine
            .store
            .write(|tx| async move {
                tx.move_begin(new, now).await?;
                tx.move_list().await
            })
            .await;
        match begun {
            Ok(moves) => {
                tracing::info!(machine = %record.id, app = %record.app, to = %new.node, successor = %new.successor, "a machine moves");
                Ok(moves.into_iter().find(|it| it.machine == record.id))
            }
            // A deploy of the app comes first, or the machine has gone meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                tracing::debug!(machine = %record.id, %error, "a machine does not move yet");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn truth(&self) -> Result<Truth, StoreError> {
        let (displaced, moves) = self
            .engine
            .store
            .read(|tx| async move {
                Ok::<_, StoreError>((tx.machine_displaced(MAX_DISPLACED).await?, tx.move_list().await?))
            })
            .await?;
        Ok(Truth { displaced, moves: moves.into_iter().map(|it| (it.machine, it)).collect() })
    }

    async fn lease(&self, machine: MachineId) -> Result<bool, StoreError> {
        let (now, until, executor) = ((self.engine.now_ms)(), self.lease_end(), self.engine.executor.as_str());
        self.engine.store.write(|tx| async move { tx.move_lease(machine, executor, now, until).await }).await
    }

    fn lease_end(&self) -> u64 {
        (self.engine.now_ms)() + u64::try_from(self.engine.timing.lease.as_millis()).unwrap_or(u64::MAX / 4)
    }
}
