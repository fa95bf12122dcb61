//! A world of machines in memory that outlives executors, with faults at chosen moments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use atoll_model::machine::CheckResult;
use atoll_model::service::CheckStatus;
use atoll_model::{AppName, MachineId, MachineState, NodeName, RegionCode};
use atoll_rollout::Effect;
use atoll_rollout::deploy::Existing;
use atoll_rollout::gate::LastExit;
use atoll_rollout::placement::NodeRoom;
use atoll_store::{Release, Store};

use crate::world::{Setback, Sight, World};

pub const REGIONS: [&str; 3] = ["ams", "nrt", "ord"];

#[derive(Clone, Debug)]
pub struct Machine {
    pub release: u64,
    group: String,
    pub region: RegionCode,
    node: NodeName,
    pub state: MachineState,
    known_to_edges: bool,
    pub cordoned: bool,
}

/// What befalls one call of the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is refused without effect.
    Refused,
    /// Its server is silent this time.
    Silent,
    /// The executor dies before the effect; after it.
    DeathBefore,
    DeathAfter,
}

#[derive(Default)]
struct State {
    machines: BTreeMap<MachineId, Machine>,
    calls: usize,
    fault: Option<(usize, Fault)>,
    is_dead: bool,
    least_serving: Option<usize>,
    /// Its machines exit at once; those of one region, or all.
    broken: Option<(u64, Option<RegionCode>)>,
    /// Nodes that do not answer.
    silent: BTreeSet<NodeName>,
    /// No node can fetch an image.
    no_image: bool,
    /// New machines stay unready until this is taken back.
    holds_gates: bool,
    /// New machines are found resting before they have passed.
    rests_once: bool,
    /// Nodes beside the one of each region.
    more_nodes: Vec<(String, RegionCode)>,
    draining: Vec<String>,
    /// Where a machine that is destroyed is noted before, for whoever goes by the records.
    records: Option<Store>,
}

#[derive(Default)]
pub struct FakeWorld(Mutex<State>);

impl FakeWorld {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The `call`th call from now on, counting from 0, meets a fault.
    pub fn plan_fault(&self, call: usize, fault: Fault) {
        let mut state = self.lock();
        state.calls = 0;
        state.fault = Some((call, fault));
    }

    /// Whether the planned fault has come.
    pub fn fault_came(&self) -> bool {
        let state = self.lock();
        state.fault.is_some_and(|(call, _)| state.calls > call)
    }

    pub fn is_dead(&self) -> bool {
        self.lock().is_dead
    }

    /// A new executor sees the same world.
    pub fn revive(&self) {
        let mut state = self.lock();
        state.is_dead = false;
        state.fault = None;
    }

    pub fn break_release(&self, release: u64) {
        self.lock().broken = Some((release, None));
    }

    pub fn break_release_in(&self, release: u64, region: &str) {
        self.lock().broken = Some((release, Some(region.parse().unwrap())));
    }

    pub fn silence(&self, nodes: &[&str]) {
        self.lock().silent = nodes.iter().map(|name| name.parse().unwrap()).collect();
    }

    pub fn lose_images(&self, lost: bool) {
        self.lock().no_image = lost;
    }

    pub fn hold_gates(&self, hold: bool) {
        self.lock().holds_gates = hold;
    }

    pub fn rest_once(&self) {
        self.lock().rests_once = true;
    }

    pub fn ids(&self) -> Vec<MachineId> {
        self.lock().machines.keys().copied().collect()
    }

    /// Somebody destroys a machine by hand, unless it is the last.
    pub fn destroy_one(&self, which: usize) {
        let mut state = self.lock();
        let id = state.machines.keys().copied().nth(which % state.machines.len().max(1));
        if let Some(id) = id.filter(|_| state.machines.len() > 1) {
            state.machines.remove(&id);
        }
    }

    pub fn keep_records(&self, store: Store) {
        self.lock().records = Some(store);
    }

    pub fn add_node(&self, name: &str, region: &str) {
        self.lock().more_nodes.push((name.to_owned(), region.parse().unwrap()));
    }

    pub fn drain_node(&self, name: &str) {
        self.lock().draining.push(name.to_owned());
    }

    /// A machine of release 1 that serves already.
    pub fn put_machine(&self, id: MachineId, node: &str, region: &str) {
        let machine = Machine {
            release: 1,
            group: "app".into(),
            region: region.parse().unwrap(),
            node: node.parse().unwrap(),
            state: MachineState::Started,
            known_to_edges: true,
            cordoned: false,
        };
        self.lock().machines.insert(id, machine);
    }

    /// The nodes of the machines that serve.
    pub fn places(&self) -> Vec<String> {
        let state = self.lock();
        let serving = state.machines.values().filter(|machine| machine.known_to_edges && !machine.cordoned);
        serving.map(|machine| machine.node.to_string()).collect()
    }

    pub fn machines(&self) -> Vec<Machine> {
        self.lock().machines.values().cloned().collect()
    }

    /// Releases of the machines that serve.
    pub fn serving(&self) -> Vec<u64> {
        self.lock().serving()
    }

    /// The fewest machines that served since this was asked last.
    pub fn least_serving(&self) -> Option<usize> {
        self.lock().least_serving.take()
    }

    /// Counts a call and lets its fault happen; `effect` changes the world.
    async fn call(&self, effect: impl FnOnce(&mut State) -> Result<(), Setback>) -> Result<(), Setback> {
        let (fault, result) = {
            let mut state = self.lock();
            let call = state.calls;
            state.calls += 1;
            let fault = state.fault.filter(|(at, _)| *at == call).map(|(_, fault)| fault);
            let acts = !state.is_dead && matches!(fault, None | Some(Fault::DeathAfter));
            let result = if acts { effect(&mut state) } else { Ok(()) };
            state.is_dead |= matches!(fault, Some(Fault::DeathBefore | Fault::DeathAfter));
            let serving = state.serving().len();
            state.least_serving = Some(state.least_serving.map_or(serving, |least| least.min(serving)));
            (fault, result)
        };
        match fault {
            Some(Fault::Refused) => Err(Setback::lasting("refused by the test")),
            Some(Fault::Silent) => Err(Setback::transient("the server is silent")),
            _ if self.is_dead() => std::future::pending().await,
            _ => {
                tokio::task::yield_now().await;
                result
            }
        }
    }
}

impl State {
    fn serving(&self) -> Vec<u64> {
        let serves = |machine: &&Machine| machine.known_to_edges && !machine.cordoned;
        self.machines.values().filter(serves).map(|machine| machine.release).collect()
    }

    fn apply(&mut self, effect: &Effect) -> Result<(), Setback> {
        let id = effect.machine();
        match effect {
            Effect::Create { release, group, region, node, .. } => {
                self.machines.entry(id).or_insert(Machine {
                    release: *release,
                    group: group.clone(),
                    region: *region,
                    node: node.clone(),
                    state: MachineState::Started,
                    known_to_edges: false,
                    cordoned: false,
                });
            }
            Effect::Copy { of, node, launch, .. } => {
                let old = self.machines.get(of).cloned().ok_or_else(|| Setback::lasting("no such machine"))?;
                let state = if *launch { MachineState::Started } else { MachineState::Stopped };
                let copy = Machine { node: node.clone(), state, known_to_edges: false, ..old };
                self.machines.entry(id).or_insert(copy);
            }
            Effect::Destroy { .. } | Effect::Abandon { .. } => {
                self.machines.remove(&id);
            }
            Effect::Update { release, .. } => {
                let machine = self.machines.get_mut(&id).ok_or_else(|| Setback::lasting("no such machine"))?;
                machine.release = *release;
            }
            Effect::Cordon { .. } | Effect::Uncordon { .. } => {
                // A machine that was never made cannot be cordoned, which is as good.
                if let Some(machine) = self.machines.get_mut(&id) {
                    machine.cordoned = matches!(effect, Effect::Cordon { .. });
                }
            }
            Effect::Prepare { .. } | Effect::Gate { .. } | Effect::Barrier { .. } | Effect::Drain { .. } => {
                panic!("{effect} is a wait")
            }
        }
        Ok(())
    }

    fn sight(&mut self, id: MachineId) -> Result<Sight, Setback> {
        let (broken, holds) = (self.broken, self.holds_gates);
        let rests = std::mem::take(&mut self.rests_once);
        let machine = self.machines.get_mut(&id).ok_or_else(|| Setback::lasting("no such machine"))?;
        if rests {
            machine.state = MachineState::Stopped;
        }
        let is_broken = broken.is_some_and(|(release, region)| {
            release == machine.release && region.is_none_or(|region| region == machine.region)
        });
        let status = if holds { CheckStatus::Critical } else { CheckStatus::Passing };
        Ok(Sight {
            state: if is_broken { MachineState::Stopped } else { machine.state },
            boot_id: Some("boot".into()),
            exits: u32::from(is_broken),
            last_exit: is_broken.then_some(LastExit { code: 7, oom_killed: false }),
            ports: vec![(8080, true)],
            checks: vec![CheckResult { name: "up".into(), status, output: "503".into(), updated_at: String::new() }],
        })
    }
}

#[async_trait]
impl World for FakeWorld {
    async fn nodes(&self, _: &AppName) -> Result<Vec<NodeRoom>, Setback> {
        let state = self.lock();
        let usual = REGIONS.iter().map(|code| (format!("node-{code}"), code.parse().unwrap()));
        let node = |(name, region): (String, RegionCode)| NodeRoom {
            active: !state.draining.contains(&name),
            name: name.parse().unwrap(),
            region,
            free_memory_mb: 10_000,
            free_cpu_milli: 10_000,
            machines_of_app: 0,
        };
        Ok(usual.chain(state.more_nodes.iter().cloned()).map(node).collect())
    }

    async fn machines(&self, _: &AppName) -> Result<Vec<Existing>, Setback> {
        let existing = |(id, machine): (&MachineId, &Machine)| Existing {
            id: *id,
            group: machine.group.clone(),
            region: machine.region,
            node: machine.node.clone(),
            release: machine.release,
        };
        Ok(self.lock().machines.iter().map(existing).collect())
    }

    async fn silent(&self, nodes: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
        nodes.intersection(&self.lock().silent).cloned().collect()
    }

    async fn prepare(&self, _: &NodeName, _: &Release) -> Result<(), Setback> {
        self.call(|state| if state.no_image { Err(Setback::lasting("no such image")) } else { Ok(()) }).await
    }

    async fn announce(&self, _: &AppName) -> Result<(), Setback> {
        Ok(())
    }

    async fn apply(&self, _: &AppName, effect: &Effect, release: Option<&Release>) -> Result<(), Setback> {
        if let Effect::Create { release: wanted, .. } | Effect::Update { release: wanted, .. } = effect {
            assert_eq!(release.map(|release| release.version), Some(*wanted));
        }
        let records = {
            let state = self.lock();
            state.records.clone().filter(|_| !state.is_dead)
        };
        if let (Effect::Destroy { machine }, Some(store)) = (effect, records) {
            // A successor is not in the records: no control recorded it.
            store.write(|tx| async move { tx.machine_destroy_intend(*machine, 0).await }).await.ok();
        }
        self.call(|state| state.apply(effect)).await
    }

    async fn observe(&self, _: &AppName, machine: MachineId) -> Result<Sight, Setback> {
        let mut sight = None;
        self.call(|state| {
            sight = Some(state.sight(machine)?);
            Ok(())
        })
        .await?;
        sight.ok_or_else(|| Setback::transient("nothing was seen"))
    }

    async fn start(&self, _: &AppName, machine: MachineId) -> Result<(), Setback> {
        if let Some(machine) = self.lock().machines.get_mut(&machine) {
            machine.state = MachineState::Started;
        }
        Ok(())
    }

    async fn barrier(&self, _: &AppName, machine: MachineId, _: Duration) -> Result<(), Setback> {
        self.call(|state| {
            if let Some(machine) = state.machines.get_mut(&machine) {
                machine.known_to_edges = true;
            }
            Ok(())
        })
        .await
    }

    async fn drain(&self, _: &AppName, _: MachineId) -> Result<(), Setback> {
        self.call(|_| Ok(())).await
    }

    async fn last_lines(&self, _: &AppName, _: MachineId, count: u32) -> Result<Vec<String>, Setback> {
        Ok((0..count.min(2)).map(|number| format!("line {number}")).collect())
    }
}
