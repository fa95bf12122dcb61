//! What is known of a running machine's fitness: results of its checks, whether its ports accept,
//! and what follows for routing. Pure.

use atoll_model::MachineConfig;
use atoll_model::machine::CheckResult;
use atoll_model::service::{CheckKind, CheckStatus, Protocol};

use crate::checks::schedule::Status;

/// What a probe is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// Whether a service's port accepts connections; shown to nobody.
    Port { service: usize },
    /// A service's check; affects the routing of that service.
    Service { service: usize, name: String },
    /// A machine's check; `readiness` affects every service.
    Machine { name: String, readiness: bool },
}

/// The fitness of one run.
#[derive(Clone, PartialEq, Debug)]
pub struct Health {
    /// A request waits for this machine: a port that accepts is enough.
    woken: bool,
    ports: Vec<bool>,
    checks: Vec<Known>,
}

/// What a probe's result changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    None,
    /// Only the text that people see.
    Output,
    Status,
}

#[derive(Clone, PartialEq, Debug)]
struct Known {
    role: Role,
    result: CheckResult,
}

/// Name of a service's check, as the API shows it.
pub fn service_check_name(index: usize, kind: atoll_model::service::CheckType, port: u16) -> String {
    let kind = match kind {
        atoll_model::service::CheckType::Tcp => "tcp",
        atoll_model::service::CheckType::Http => "http",
    };
    format!("servicecheck-{index:02}-{kind}-{port}")
}

/// The roles of all probes of a configuration: ports first, then service checks, then machine checks.
pub fn roles(config: &MachineConfig) -> Vec<Role> {
    let ports = config
        .services
        .iter()
        .enumerate()
        .filter(|(_, service)| service.protocol == Protocol::Tcp)
        .map(|(service, _)| Role::Port { service });
    let mut number = 0;
    let mut service_checks = Vec::new();
    for (index, service) in config.services.iter().enumerate() {
        for check in &service.checks {
            let port = check.port.unwrap_or(service.internal_port);
            let name = service_check_name(number, check.check_type, port);
            number += 1;
            service_checks.push(Role::Service { service: index, name });
        }
    }
    let machine_checks = config
        .checks
        .iter()
        .map(|(name, check)| Role::Machine { name: name.clone(), readiness: check.kind == Some(CheckKind::Readiness) });
    ports.chain(service_checks).chain(machine_checks).collect()
}

impl Health {
    /// Of a run that has just begun.
    pub fn fresh(config: &MachineConfig, woken: bool, now: &str) -> Self {
        // A UDP port cannot be seen to accept; it counts as open from the start.
        let ports = config.services.iter().map(|service| service.protocol == Protocol::Udp).collect();
        let checks = roles(config)
            .into_iter()
            .filter_map(|role| {
                let name = match &role {
                    Role::Port { .. } => return None,
                    Role::Service { name, .. } | Role::Machine { name, .. } => name.clone(),
                };
                let result = CheckResult {
                    name,
                    status: CheckStatus::Warning,
                    output: "waiting for the first result".into(),
                    updated_at: now.to_owned(),
                };
                Some(Known { role, result })
            })
            .collect();
        Self { woken, ports, checks }
    }

    /// Of a run that an earlier agent began: what it knew last still counts, until probes say otherwise.
    pub fn adopted(config: &MachineConfig, checks: &[CheckResult], ready: &[bool], now: &str) -> Self {
        let mut health = Self::fresh(config, true, now);
        for (port, ready) in health.ports.iter_mut().zip(ready) {
            *port |= ready;
        }
        for known in &mut health.checks {
            if let Some(earlier) = checks.iter().find(|result| result.name == known.result.name) {
                known.result = earlier.clone();
            }
        }
        health
    }

    /// Of a machine that does not run.
    pub fn none(config: &MachineConfig) -> Self {
        Self { woken: false, ports: vec![false; config.services.len()], checks: Vec::new() }
    }

    /// Takes a probe's result.
    pub fn observe(&mut self, role: &Role, status: Status, output: &str, now: &str) -> News {
        if let Role::Port { service } = role {
            let Some(port) = self.ports.get_mut(*service) else { return News::None };
            let opened = status == Status::Passing && !*port;
            // A port that has accepted once stays open: from then on the proxy itself sees failures.
            *port |= opened;
            return if opened { News::Status } else { News::None };
        }
        let Some(known) = self.checks.iter_mut().find(|known| known.role == *role) else { return News::None };
        let status = match status {
            Status::Passing => CheckStatus::Passing,
            Status::Waiting => CheckStatus::Warning,
            Status::Critical => CheckStatus::Critical,
        };
        if known.result.status != status {
            known.result.status = status;
            known.result.updated_at = now.to_owned();
            known.result.output = output.to_owned();
            News::Status
        } else if known.result.output != output {
            known.result.output = output.to_owned();
            News::Output
        } else {
            News::None
        }
    }

    /// Whether the service may be given requests.
    pub fn is_ready(&self, service: usize) -> bool {
        let mut relevant = self
            .checks
            .iter()
            .filter(|known| match &known.role {
                Role::Service { service: of, .. } => *of == service,
                Role::Machine { readiness, .. } => *readiness,
                Role::Port { .. } => false,
            })
            .map(|known| known.result.status)
            .peekable();
        let port = self.ports.get(service).copied().unwrap_or(false);
        if self.woken || relevant.peek().is_none() {
            port && relevant.all(|status| status != CheckStatus::Critical)
        } else {
            relevant.all(|status| status == CheckStatus::Passing)
        }
    }

    /// Readiness by service.
    pub fn ready(&self) -> Vec<bool> {
        (0..self.ports.len()).map(|service| self.is_ready(service)).collect()
    }

    /// Whether the port of some service with this internal port accepts.
    pub fn accepts(&self, config: &MachineConfig, port: u16) -> bool {
        config.services.iter().zip(&self.ports).any(|(service, open)| *open && service.internal_port == port)
    }

    pub fn results(&self) -> Vec<CheckResult> {
        self.checks.iter().map(|known| known.result.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> MachineConfig {
        serde_json::from_str(json).unwrap()
    }

    const CHECKED: &str = r#"{"image":"a","services":[{"internal_port":8080,"checks":[{"type":"http"}]}],
        "checks":{"deep":{"type":"tcp","port":9,"kind":"readiness"},"note":{"type":"tcp","port":9}}}"#;

    #[test]
    fn a_new_machine_is_ready_when_every_readiness_check_has_passed() {
        let config = config(CHECKED);
        let roles = roles(&config);
        let mut health = Health::fresh(&config, false, "t0");
        assert_eq!(health.results()[0].name, "servicecheck-00-http-8080");
        assert!(health.results().iter().all(|result| result.status == CheckStatus::Warning));
        health.observe(&roles[0], Status::Passing, "", "t1");
        assert!(!health.is_ready(0), "the port alone is not enough");
        health.observe(&roles[1], Status::Passing, "200 OK", "t1");
        assert!(!health.is_ready(0), "a readiness check of the machine counts too");
        let deep = Role::Machine { name: "deep".into(), readiness: true };
        assert_eq!(health.observe(&deep, Status::Passing, "ok", "t2"), News::Status);
        assert!(health.is_ready(0), "an informational check does not count");
        assert_eq!(health.observe(&deep, Status::Passing, "ok", "t3"), News::None);
        assert_eq!(health.observe(&deep, Status::Passing, "fine", "t3"), News::Output);
        assert_eq!(health.results()[1].updated_at, "t2");
    }

    #[test]
    fn a_woken_machine_is_ready_when_its_port_accepts_unless_a_check_fails() {
        let config = config(CHECKED);
        let roles = roles(&config);
        let mut health = Health::fresh(&config, true, "t0");
        assert!(!health.is_ready(0));
        assert_eq!(health.observe(&roles[0], Status::Passing, "", "t1"), News::Status);
        assert!(health.is_ready(0) && health.accepts(&config, 8080) && !health.accepts(&config, 80));
        health.observe(&roles[1], Status::Critical, "500", "t2");
        assert!(!health.is_ready(0));
    }

    #[test]
    fn an_adopted_machine_stays_in_the_routing() {
        let config = config(CHECKED);
        let passing: Vec<_> = Health::fresh(&config, false, "t0")
            .results()
            .into_iter()
            .map(|result| CheckResult { status: CheckStatus::Passing, ..result })
            .collect();
        assert!(Health::adopted(&config, &passing, &[true], "t1").is_ready(0));
        assert!(!Health::adopted(&config, &[], &[false], "t1").is_ready(0));
    }
}
