//! The tasks that probe one run of a machine. They end when dropped, with the run.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use atoll_model::MachineConfig;
use atoll_model::service::Check;

use super::probe::probe;
use super::schedule::{Schedule, Status, Timing};
use crate::config::Knobs;
use crate::health::{Role, roles};

/// A probe's result that may change what is known.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Of the run that was probed: results of an earlier run are void.
    pub run: u64,
    pub role: Role,
    pub status: Status,
    pub output: String,
}

struct Target {
    role: Role,
    port: u16,
    check: Option<Check>,
    timing: Timing,
}

/// Starts probing; results go to `results` as long as the returned set lives.
pub fn start(
    config: &MachineConfig,
    address: IpAddr,
    knobs: &Knobs,
    run: u64,
    results: &mpsc::Sender<Observation>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for target in targets(config, knobs) {
        tasks.spawn(watch(target, address, run, results.clone()));
    }
    tasks
}

fn targets(config: &MachineConfig, knobs: &Knobs) -> Vec<Target> {
    let timing = |check: Option<&Check>| Timing {
        interval: match check {
            Some(check) => check.interval.map_or(knobs.check_interval, |interval| interval.0),
            None => knobs.port_probe_interval,
        }
        .max(Duration::from_millis(1)),
        timeout: check.and_then(|check| check.timeout).map_or(knobs.check_timeout, |timeout| timeout.0),
        grace: check.and_then(|check| check.grace_period).map_or(Duration::ZERO, |grace| grace.0),
        first_wait: if check.is_some() { knobs.first_probe_after } else { knobs.first_port_probe_after },
    };
    let service_checks: Vec<(&Check, u16)> = config
        .services
        .iter()
        .flat_map(|service| service.checks.iter().map(|check| (check, check.port.unwrap_or(service.internal_port))))
        .collect();
    let mut service_checks = service_checks.into_iter();
    roles(config)
        .into_iter()
        .filter_map(|role| {
            let (port, check) = match &role {
                Role::Port { service } => (config.services.get(*service)?.internal_port, None),
                // Roles list service checks in the order of the configuration.
                Role::Service { .. } => service_checks.next().map(|(check, port)| (port, Some(check)))?,
                Role::Machine { name, .. } => {
                    let check = config.checks.get(name)?;
                    (check.port?, Some(check))
                }
            };
            Some(Target { role, port, check: check.cloned(), timing: timing(check) })
        })
        .collect()
}

async fn watch(target: Target, address: IpAddr, run: u64, results: mpsc::Sender<Observation>) {
    let address = SocketAddr::new(address, target.port);
    let started = Instant::now();
    let mut schedule = Schedule::new(target.timing);
    loop {
        let result = probe(address, target.check.as_ref(), target.timing.timeout).await;
        let passed = result.is_ok();
        let wait = schedule.observe(passed, started.elapsed());
        let output = result.unwrap_or_else(|failure| failure);
        let observation = Observation { run, role: target.role.clone(), status: schedule.status(), output };
        if results.send(observation).await.is_err() {
            return;
        }
        if passed && matches!(target.role, Role::Port { .. }) {
            return;
        }
        tokio::time::sleep(wait).await;
    }
}
