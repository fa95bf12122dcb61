//! Which idle machines stop. Each node judges its own machines by itself, from the same catalogue:
//! whoever is kept running is kept by rank of id, so that two nodes never stop below the minimum
//! together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_model::service::Autostop;
use atoll_model::{MachineId, MachineState, RegionCode};
use serde::{Deserialize, Serialize};

/// A machine of one app in one region.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    pub id: MachineId,
    pub group: String,
    pub state: MachineState,
    pub cordoned: bool,
    /// Unix milliseconds; being started counts as activity.
    pub started_at_ms: u64,
    pub services: Vec<Activity>,
}

/// What goes on at one service of a machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Activity {
    pub autostop: Autostop,
    pub idle_timeout: Duration,
    pub min_machines_running: u32,
    /// Open requests, upgraded connections and streams.
    pub open: u64,
    /// Unix milliseconds at which the last one ended; 0: there was none.
    pub last_activity_ms: u64,
}

/// What to do with an idle machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    Stop,
    Suspend,
}

/// The machines to stop or suspend now. `primary_region` is where `min_machines_running` holds; an
/// app without one has it in every region.
pub fn judge(
    machines: &[Candidate],
    region: RegionCode,
    primary_region: Option<RegionCode>,
    now_ms: u64,
) -> Vec<(MachineId, Rest)> {
    let minimum_holds = primary_region.is_none_or(|primary| primary == region);
    let kept = if minimum_holds { kept_running(machines) } else { BTreeSet::new() };
    machines
        .iter()
        .filter(|machine| machine.state == MachineState::Started && !kept.contains(&machine.id))
        .filter_map(|machine| Some((machine.id, machine.rest(now_ms)?)))
        .collect()
}

/// The machines with the lowest ids of each group, as many as must run.
fn kept_running(machines: &[Candidate]) -> BTreeSet<MachineId> {
    let mut groups: BTreeMap<&str, (u32, BTreeSet<MachineId>)> = BTreeMap::new();
    for machine in machines {
        let (minimum, running) = groups.entry(&machine.group).or_default();
        let asked = machine.services.iter().map(|service| service.min_machines_running).max();
        *minimum = (*minimum).max(asked.unwrap_or(0));
        // A cordoned machine serves nobody and so cannot be one of those that must run.
        if machine.state == MachineState::Started && !machine.cordoned {
            running.insert(machine.id);
        }
    }
    groups.into_values().flat_map(|(minimum, running)| running.into_iter().take(minimum as usize)).collect()
}

impl Candidate {
    /// What becomes of this machine when nothing keeps it; `None`: it is in use or does not autostop.
    fn rest(&self, now_ms: u64) -> Option<Rest> {
        let all_agree =
            !self.services.is_empty() && self.services.iter().all(|service| service.autostop != Autostop::Off);
        if !all_agree || self.services.iter().any(|service| service.open > 0) {
            return None;
        }
        let idle_since =
            self.services.iter().map(|service| service.last_activity_ms).fold(self.started_at_ms, u64::max);
        let patience = self.services.iter().map(|service| service.idle_timeout).max()?;
        // A clock that went backwards makes a machine look active, never idle.
        if u128::from(now_ms.saturating_sub(idle_since)) < patience.as_millis() {
            return None;
        }
        let all_suspend = self.services.iter().all(|service| service.autostop == Autostop::Suspend);
        Some(if all_suspend { Rest::Suspend } else { Rest::Stop })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn activity(autostop: Autostop, open: u64, last_activity_ms: u64) -> Activity {
        Activity { autostop, idle_timeout: Duration::from_secs(10), min_machines_running: 0, open, last_activity_ms }
    }

    fn machine(id: u64, services: Vec<Activity>) -> Candidate {
        Candidate {
            id: MachineId::from_random(id),
            group: "app".into(),
            state: MachineState::Started,
            cordoned: false,
            started_at_ms: 1_000,
            services,
        }
    }

    fn ams() -> RegionCode {
        "ams".parse().unwrap()
    }

    fn judged(machines: &[Candidate], now_ms: u64) -> Vec<Rest> {
        judge(machines, ams(), Some(ams()), now_ms).into_iter().map(|(_, rest)| rest).collect()
    }

    #[test]
    fn idle_means_nothing_open_for_the_timeout() {
        let idle = machine(1, vec![activity(Autostop::Stop, 0, 5_000)]);
        assert!(judged(std::slice::from_ref(&idle), 14_999).is_empty());
        assert_eq!(judged(&[idle], 15_000), [Rest::Stop]);
        assert!(judged(&[machine(1, vec![activity(Autostop::Stop, 1, 0)])], 99_000).is_empty());
        assert!(judged(&[machine(1, vec![])], 99_000).is_empty());
    }

    #[test]
    fn all_services_must_agree() {
        let services = |a, b| vec![activity(a, 0, 0), activity(b, 0, 0)];
        assert!(judged(&[machine(1, services(Autostop::Stop, Autostop::Off))], 99_000).is_empty());
        assert_eq!(judged(&[machine(1, services(Autostop::Stop, Autostop::Suspend))], 99_000), [Rest::Stop]);
        assert_eq!(judged(&[machine(1, services(Autostop::Suspend, Autostop::Suspend))], 99_000), [Rest::Suspend]);
    }

    #[test]
    fn the_minimum_holds_in_the_primary_region_only() {
        let service = Activity { min_machines_running: 1, ..activity(Autostop::Stop, 0, 0) };
        let machines = [machine(2, vec![service.clone()]), machine(1, vec![service])];
        let stopped = judge(&machines, ams(), Some(ams()), 99_000);
        assert_eq!(stopped, [(MachineId::from_random(2), Rest::Stop)]);
        assert_eq!(judge(&machines, ams(), "nrt".parse().ok(), 99_000).len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn never_below_the_minimum_and_never_a_busy_machine(
            machines in proptest::collection::vec((0u64..50, 0u64..2, any::<bool>(), 0u64..90_000), 0..12),
            minimum in 0u32..5,
        ) {
            let mut by_id: BTreeMap<u64, Candidate> = BTreeMap::new();
            for (id, open, started, last) in machines {
                let service = Activity { min_machines_running: minimum, ..activity(Autostop::Stop, open, last) };
                let state = if started { MachineState::Started } else { MachineState::Stopped };
                by_id.insert(id, Candidate { state, ..machine(id, vec![service]) });
            }
            let machines: Vec<Candidate> = by_id.into_values().collect();
            let stopped: BTreeSet<MachineId> =
                judge(&machines, ams(), Some(ams()), 95_000).into_iter().map(|(id, _)| id).collect();
            let running: Vec<&Candidate> = machines.iter().filter(|m| m.state == MachineState::Started).collect();
            prop_assert!(running.len() - stopped.len() >= running.len().min(minimum as usize));
            prop_assert!(running.iter().all(|m| m.services[0].open == 0 || !stopped.contains(&m.id)));
        }
    }
}
