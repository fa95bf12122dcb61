//! Rules between keys: what no single value can tell.

use std::collections::BTreeMap;

use atoll_model::GoDuration;
use atoll_model::config::MAX_STOP_TIMEOUT;

use crate::document::Node;
use crate::manifest::*;
use crate::path::Path;
use crate::report::Finding;

pub(crate) struct Validator<'a> {
    pub manifest: &'a Manifest,
    /// The canonical tree, for places.
    pub root: &'a Node,
    pub findings: Vec<Finding>,
}

impl Validator<'_> {
    fn error(&mut self, path: &Path, message: impl Into<String>, help: impl Into<String>) {
        let finding = Finding::error(path.span_in(self.root), message.into());
        self.findings.push(finding.key(path).help(help));
    }

    fn warning(&mut self, path: &Path, message: impl Into<String>, help: impl Into<String>) {
        let finding = Finding::warning(path.span_in(self.root), message.into());
        self.findings.push(finding.key(path).help(help));
    }

    pub fn run(&mut self) {
        let root = Path::root();
        if self.manifest.kill_timeout.is_some_and(|timeout| timeout > MAX_STOP_TIMEOUT) {
            self.error(
                &root.key("kill_timeout"),
                format!("must not exceed {MAX_STOP_TIMEOUT}"),
                "write \"5m\" or less",
            );
        }
        for name in self.manifest.env.keys() {
            let path = root.key("env").key(name);
            if name.is_empty() || name.contains(['=', '\0']) {
                self.error(&path, "a name must not be empty nor contain '=' or NUL", "rename it");
            } else if name.starts_with("FLY_") {
                self.warning(&path, "names that begin with FLY_ belong to the platform", "rename it");
            }
        }
        let deploy = &self.manifest.deploy;
        if deploy.max_unavailable.is_some() && deploy.strategy == Some(Strategy::Immediate) {
            let path = root.key("deploy").key("max_unavailable");
            self.warning(&path, "has no effect with strategy \"immediate\"", "use \"rolling\" or remove it");
        }
        self.services();
        self.checks();
        self.vms();
        self.restarts_and_files();
    }

    fn services(&mut self) {
        let root = Path::root();
        if let Some(http) = &self.manifest.http_service {
            let path = root.key("http_service");
            self.service_groups(&path, &http.processes);
            self.concurrency(&path, http.concurrency.as_ref());
            self.service_checks(&path.key("checks"), &http.checks);
        }
        for (index, service) in self.manifest.services.iter().enumerate() {
            let path = root.key("services").index(index);
            self.service_groups(&path, &service.processes);
            self.concurrency(&path, service.concurrency.as_ref());
            self.service_checks(&path.key("tcp_checks"), &service.tcp_checks);
            self.service_checks(&path.key("http_checks"), &service.http_checks);
            if service.internal_port.is_none() {
                self.error(&path.key("internal_port"), "is required", "name the port that the app listens on");
            }
            if service.ports.is_empty() {
                self.warning(&path, "has no ports: nothing reaches it from outside", "add [[services.ports]]");
            }
            for (index, port) in service.ports.iter().enumerate() {
                let path = path.key("ports").index(index);
                match (port.port, port.start_port, port.end_port) {
                    (Some(_), None, None) => {}
                    (None, Some(start), Some(end)) if start <= end => {}
                    _ => self.error(&path, "is no port", "give either `port`, or `start_port` and `end_port`"),
                }
                if service.protocol.as_deref() == Some("udp") && !port.handlers.is_empty() {
                    self.error(&path.key("handlers"), "UDP services have no handlers", "remove them");
                }
            }
        }
        self.ports_taken_twice();
    }

    fn service_groups(&mut self, path: &Path, processes: &[String]) {
        let groups = self.manifest.groups().join(", ");
        if processes.is_empty() && !self.manifest.processes.is_empty() {
            let help = format!("add `processes = [{:?}]`", self.manifest.default_group());
            self.error(path, "does not say which process groups it is for", help);
        }
        for (index, name) in processes.iter().enumerate() {
            if !self.manifest.groups().contains(&name.as_str()) {
                let message = format!("there is no process group {:?}", crate::shape::short(name));
                self.error(&path.key("processes").index(index), message, format!("groups: {groups}"));
            }
        }
    }

    fn concurrency(&mut self, path: &Path, limits: Option<&ConcurrencySection>) {
        let Some(limits) = limits else { return };
        if let (Some(soft), Some(hard)) = (limits.soft_limit, limits.hard_limit)
            && hard > 0
            && hard < soft
        {
            let path = path.key("concurrency").key("hard_limit");
            self.error(&path, format!("{hard} is below soft_limit {soft}"), "the hard limit is the larger one");
        }
    }

    fn service_checks(&mut self, path: &Path, checks: &[ServiceCheck]) {
        let (second, minute) = (GoDuration::from_secs(1), GoDuration::from_secs(60));
        for (index, check) in checks.iter().enumerate() {
            for (key, value) in
                [("interval", check.interval), ("timeout", check.timeout), ("grace_period", check.grace_period)]
            {
                let path = path.index(index).key(key);
                let help = "write a duration with its unit, such as \"10s\"";
                match value {
                    Some(value) if value < second => {
                        self.warning(&path, format!("{value} is too short and becomes 1s"), help);
                    }
                    Some(value) if value > minute => {
                        self.warning(&path, format!("{value} is too long and becomes 1m0s"), help);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Two services of one group cannot share an external port: which would get the connection?
    fn ports_taken_twice(&mut self) {
        for group in self.manifest.groups() {
            let mut taken: BTreeMap<(bool, u16), (u16, Path)> = BTreeMap::new();
            let has_http = self.manifest.http_port(group).is_some();
            for port in [80, 443].into_iter().filter(|_| has_http) {
                taken.insert((false, port), (port, Path::root().key("http_service")));
            }
            for (at, service) in self.manifest.services.iter().enumerate() {
                if !self.manifest.applies(&service.processes, group) {
                    continue;
                }
                let udp = service.protocol.as_deref() == Some("udp");
                for (index, port) in service.ports.iter().enumerate() {
                    let Some(start) = port.port.or(port.start_port) else { continue };
                    let end = port.port.or(port.end_port).unwrap_or(start);
                    let path = Path::root().key("services").index(at).key("ports").index(index);
                    // The entry with the largest start not beyond our end is the only one that can overlap,
                    // as the entries before it do not overlap one another.
                    let before = taken.range((udp, 0)..=(udp, end)).next_back();
                    if let Some((_, (_, other))) = before.filter(|(_, (other_end, _))| *other_end >= start) {
                        let message =
                            format!("port {} is already taken by {other}", start.max(before.map_or(0, |b| b.0.1)));
                        self.error(&path, message, "use another external port");
                    } else {
                        taken.insert((udp, start), (end, path));
                    }
                }
            }
        }
    }

    fn checks(&mut self) {
        for (name, check) in &self.manifest.checks {
            let path = Path::root().key("checks").key(name);
            if check.check_type.is_none() {
                self.error(&path, "has no type", "add `type = \"http\"` or `type = \"tcp\"`");
            }
            if check.interval.is_some_and(|interval| interval < GoDuration::from_secs(2)) {
                self.error(&path.key("interval"), "must be at least 2s", "write \"2s\" or more");
            }
            if check.timeout.is_some_and(|timeout| timeout > GoDuration::from_secs(60)) {
                self.error(&path.key("timeout"), "must not exceed 60s", "write \"60s\" or less");
            }
            self.unknown_groups(&path, &check.processes);
            let mut groups = self.manifest.groups();
            groups.retain(|group| self.manifest.applies(&check.processes, group));
            if check.port.is_none() && groups.iter().any(|group| self.manifest.http_port(group).is_none()) {
                self.error(&path, "has no port, and its group has no [http_service] to take it from", "add `port`");
            }
        }
    }

    fn vms(&mut self) {
        for (index, vm) in self.manifest.vm.iter().enumerate() {
            let path = Path::root().key("vm").index(index);
            self.unknown_groups(&path, &vm.processes);
            if vm.memory == Some(0) {
                self.error(&path.key("memory"), "must not be 0", "write a size such as \"512mb\"");
            } else if let Err(error) = vm.guest() {
                let text = error.to_string();
                let message = text.split_once(": ").or_else(|| text.split_once(", ")).map_or(&*text, |(_, rest)| rest);
                use atoll_model::guest::InvalidGuest::*;
                let key = match &error {
                    Preset { .. } => "size",
                    CpuKind => "cpu_kind",
                    Cpus { .. } => "cpus",
                    Gpu => "gpus",
                    _ if vm.memory_mb.is_some_and(|memory| memory > 0) => "memory_mb",
                    TooLittleMemory { .. } | TooMuchMemory { .. } | MemoryStep { .. } => "memory",
                };
                self.error(&path.key(key), message, "see the sizes in docs/fly-toml.md");
            }
        }
    }

    fn restarts_and_files(&mut self) {
        for (index, restart) in self.manifest.restart.iter().enumerate() {
            let path = Path::root().key("restart").index(index);
            for (at, name) in restart.processes.iter().enumerate() {
                if !self.manifest.groups().contains(&name.as_str()) {
                    let message = format!("there is no process group {:?}", crate::shape::short(name));
                    let help = format!("groups: {}", self.manifest.groups().join(", "));
                    self.error(&path.key("processes").index(at), message, help);
                }
            }
        }
        for (index, file) in self.manifest.files.iter().enumerate() {
            let path = Path::root().key("files").index(index);
            self.unknown_groups(&path, &file.processes);
            if file.guest_path.is_none() {
                self.error(&path, "has no guest_path", "add the absolute path of the file in the machine");
            }
        }
    }

    /// Elsewhere such a name is silently without effect, so it is no error.
    fn unknown_groups(&mut self, path: &Path, processes: &[String]) {
        for (index, name) in processes.iter().enumerate() {
            if !self.manifest.groups().contains(&name.as_str()) {
                let message = format!("there is no process group {:?}", crate::shape::short(name));
                let help = format!("groups: {}", self.manifest.groups().join(", "));
                self.warning(&path.key("processes").index(index), message, help);
            }
        }
    }
}
