//! From a manifest to the configuration of one process group's machines.

use std::collections::BTreeMap;

use atoll_model::GoDuration;
use atoll_model::config::{GuestFile, Init, MachineConfig, Restart, RestartPolicy, StopConfig};
use atoll_model::guest::{Guest, GuestRequest, InvalidGuest};
use atoll_model::service::{Autostop, Check, CheckHeader, CheckType, Concurrency, Handler, Port, Protocol, Service};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::manifest::*;
use crate::words;

/// Where the app listens when [http_service] does not say.
pub const DEFAULT_HTTP_PORT: u16 = 8080;
const MIN_CHECK_DURATION: GoDuration = GoDuration::from_secs(1);
const MAX_CHECK_DURATION: GoDuration = GoDuration::from_secs(60);

/// What a release adds to the file.
#[derive(Clone, Debug, Default)]
pub struct Release<'a> {
    /// Reference of the image, best pinned by digest.
    pub image: &'a str,
    pub id: &'a str,
    pub version: u64,
    /// Contents of [`Manifest::local_paths`].
    pub local_files: BTreeMap<String, Vec<u8>>,
}

/// Why a group's machines cannot be described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    #[error("there is no process group {group:?}; the file has {}", .known.join(", "))]
    UnknownGroup { group: String, known: Vec<String> },
    #[error("the command of process group {group:?} cannot be split into words")]
    Command {
        group: String,
        #[source]
        source: words::InvalidCommand,
    },
    #[error("the size of process group {group:?} is impossible")]
    Guest {
        group: String,
        #[source]
        source: InvalidGuest,
    },
    #[error("the content of the local file {path:?} was not sent with the deploy")]
    LocalFile { path: String },
}

impl Manifest {
    /// The configuration of a machine of `group`.
    pub fn machine_config(&self, group: &str, release: &Release<'_>) -> Result<MachineConfig, ConversionError> {
        if !self.groups().contains(&group) {
            let known = self.groups().into_iter().map(str::to_owned).collect();
            return Err(ConversionError::UnknownGroup { group: group.to_owned(), known });
        }
        let guest = self.guest(group).transpose();
        Ok(MachineConfig {
            image: release.image.to_owned(),
            env: self.machine_env(group),
            init: self.init(group)?,
            guest: guest.map_err(|source| ConversionError::Guest { group: group.to_owned(), source })?,
            restart: self.restart_of(group),
            stop_config: self.stop_config(),
            services: self.services_of(group),
            checks: self.checks_of(group),
            metadata: [
                ("fly_platform_version", "v2".to_owned()),
                ("fly_process_group", group.to_owned()),
                ("fly_release_id", release.id.to_owned()),
                ("fly_release_version", release.version.to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
            files: self.files_of(group, &release.local_files)?,
            ..MachineConfig::default()
        })
    }

    fn machine_env(&self, group: &str) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        env.insert("FLY_PROCESS_GROUP".into(), group.to_owned());
        env.extend(self.primary_region.map(|region| ("PRIMARY_REGION".into(), region.to_string())));
        env
    }

    fn init(&self, group: &str) -> Result<Init, ConversionError> {
        let command = self.processes.get(group).map_or("", String::as_str);
        let words =
            words::split(command).map_err(|source| ConversionError::Command { group: group.to_owned(), source })?;
        let experimental = &self.experimental;
        Ok(Init {
            cmd: if words.is_empty() { experimental.cmd.clone() } else { words },
            entrypoint: experimental.entrypoint.clone(),
            exec: experimental.exec.clone(),
            ..Init::default()
        })
    }

    /// The size of a group's machines: the entry that names the group wins over a general one.
    pub(crate) fn guest(&self, group: &str) -> Option<Result<GuestRequest, InvalidGuest>> {
        let named = self.vm.iter().find(|vm| vm.processes.iter().any(|name| name == group));
        named.or_else(|| self.vm.iter().find(|vm| vm.processes.is_empty())).map(Vm::guest)
    }

    fn restart_of(&self, group: &str) -> Restart {
        let entry = self.restart.iter().rfind(|restart| self.applies(&restart.processes, group));
        let Some(entry) = entry else { return Restart::default() };
        let policy = entry.policy.as_deref().and_then(|policy| match policy {
            "never" => Some(RestartPolicy::No),
            "on-failure" => Some(RestartPolicy::OnFailure),
            "always" => Some(RestartPolicy::Always),
            _ => None,
        });
        Restart { policy, max_retries: entry.retries }
    }

    fn stop_config(&self) -> Option<StopConfig> {
        let timeout = self.kill_timeout.or(self.experimental.kill_timeout);
        (self.kill_signal.is_some() || timeout.is_some())
            .then(|| StopConfig { signal: self.kill_signal.clone(), timeout })
    }

    fn services_of(&self, group: &str) -> Vec<Service> {
        let http = self.http_service.iter().filter(|http| self.applies(&http.processes, group));
        let others = self.services.iter().filter(|service| self.applies(&service.processes, group));
        http.map(HttpService::service).chain(others.map(ServiceSection::service)).collect()
    }

    fn checks_of(&self, group: &str) -> BTreeMap<String, Check> {
        let checks = self.checks.iter().filter(|(_, check)| self.applies(&check.processes, group));
        checks.map(|(name, check)| (name.clone(), check.check(self.http_port(group)))).collect()
    }

    /// Where the group's [http_service] listens.
    pub(crate) fn http_port(&self, group: &str) -> Option<u16> {
        let http = self.http_service.as_ref().filter(|http| self.applies(&http.processes, group))?;
        Some(http.internal_port.unwrap_or(DEFAULT_HTTP_PORT))
    }

    fn files_of(
        &self,
        group: &str,
        local_files: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<GuestFile>, ConversionError> {
        // Unlike other sections, a file that names no group is for all: deploys elsewhere give every
        // group every file, and people rely on it.
        let files = self.files.iter().filter(|file| file.processes.is_empty() || self.applies(&file.processes, group));
        files
            .map(|file| {
                let mut guest_file =
                    GuestFile { guest_path: file.guest_path.clone().unwrap_or_default(), ..GuestFile::default() };
                if let Some(path) = &file.local_path {
                    let content =
                        local_files.get(path).ok_or_else(|| ConversionError::LocalFile { path: path.clone() })?;
                    guest_file.raw_value = Some(BASE64.encode(content));
                } else if file.secret_name.is_some() {
                    guest_file.secret_name = file.secret_name.clone();
                } else {
                    guest_file.raw_value = file.raw_value.as_ref().map(|text| BASE64.encode(text));
                }
                Ok(guest_file)
            })
            .collect()
    }
}

impl Vm {
    /// Preset, then memory, then what is spelled out.
    pub(crate) fn guest(&self) -> Result<GuestRequest, InvalidGuest> {
        let preset = match self.size.as_deref().filter(|size| !size.is_empty()) {
            Some(size) => Guest::preset(size)?,
            // A kind alone means its smallest size, not the default's memory.
            None if self.cpu_kind.as_deref() == Some("performance") => Guest::preset("performance-1x")?,
            None => Guest::DEFAULT,
        };
        let mut guest = GuestRequest::from(preset);
        guest.cpu_kind = self.cpu_kind.clone().or(guest.cpu_kind);
        let cpus = self.cpus.filter(|cpus| *cpus > 0);
        let memory = self.memory_mb.filter(|memory| *memory > 0).or(self.memory);
        if (cpus.is_some() || self.cpu_kind.is_some()) && memory.is_none() {
            guest.memory_mb = None;
        }
        guest.cpus = cpus.or(guest.cpus);
        guest.memory_mb = memory.or(guest.memory_mb);
        guest.resolve().map(GuestRequest::from)
    }
}

impl From<AutostopText> for Autostop {
    fn from(text: AutostopText) -> Self {
        match text {
            AutostopText::Off => Self::Off,
            AutostopText::Stop => Self::Stop,
            AutostopText::Suspend => Self::Suspend,
        }
    }
}

impl ConcurrencySection {
    fn concurrency(&self) -> Concurrency {
        Concurrency { kind: self.kind.unwrap_or_default(), soft_limit: self.soft_limit, hard_limit: self.hard_limit }
    }
}

impl HttpService {
    fn service(&self) -> Service {
        let port = |port, handlers, force_https, tls_options| Port {
            port: Some(port),
            handlers,
            force_https,
            tls_options,
            http_options: self.http_options.clone(),
            ..Port::default()
        };
        Service {
            protocol: Protocol::Tcp,
            internal_port: self.internal_port.unwrap_or(DEFAULT_HTTP_PORT),
            ports: vec![
                port(80, vec![Handler::Http], self.force_https, None),
                port(443, vec![Handler::Http, Handler::Tls], false, self.tls_options.clone()),
            ],
            concurrency: self.concurrency.as_ref().map(ConcurrencySection::concurrency),
            autostop: self.auto_stop_machines.map(Autostop::from),
            autostart: self.auto_start_machines,
            min_machines_running: self.min_machines_running,
            idle_timeout: self.idle_timeout,
            checks: self.checks.iter().map(|check| check.check(CheckType::Http)).collect(),
            force_instance_key: None,
            force_instance_description: None,
        }
    }
}

impl ServiceSection {
    fn service(&self) -> Service {
        let tcp = self.tcp_checks.iter().map(|check| check.check(CheckType::Tcp));
        let http = self.http_checks.iter().map(|check| check.check(CheckType::Http));
        Service {
            protocol: if self.protocol.as_deref() == Some("udp") { Protocol::Udp } else { Protocol::Tcp },
            internal_port: self.internal_port.unwrap_or_default(),
            ports: self.ports.iter().map(PortSection::port).collect(),
            concurrency: self.concurrency.as_ref().map(ConcurrencySection::concurrency),
            autostop: self.auto_stop_machines.map(Autostop::from),
            autostart: self.auto_start_machines,
            min_machines_running: self.min_machines_running,
            idle_timeout: self.idle_timeout,
            checks: tcp.chain(http).collect(),
            force_instance_key: None,
            force_instance_description: None,
        }
    }
}

impl PortSection {
    fn port(&self) -> Port {
        let handlers = self.handlers.iter().filter_map(|handler| match handler.as_str() {
            "http" | "edge_http" => Some(Handler::Http),
            "tls" => Some(Handler::Tls),
            "pg_tls" => Some(Handler::PgTls),
            "proxy_proto" => Some(Handler::ProxyProto),
            _ => None,
        });
        Port {
            port: self.port,
            start_port: self.start_port,
            end_port: self.end_port,
            handlers: handlers.collect(),
            force_https: self.force_https,
            tls_options: self.tls_options.clone(),
            http_options: self.http_options.clone(),
            proxy_proto_options: self.proxy_proto_options.clone(),
        }
    }
}

/// Service checks run no faster than each second and no slower than each minute.
fn clamp(duration: Option<GoDuration>) -> Option<GoDuration> {
    duration.map(|duration| duration.clamp(MIN_CHECK_DURATION, MAX_CHECK_DURATION))
}

fn headers(table: &BTreeMap<String, String>) -> Vec<CheckHeader> {
    table.iter().map(|(name, value)| CheckHeader { name: name.clone(), values: vec![value.clone()] }).collect()
}

impl ServiceCheck {
    fn check(&self, check_type: CheckType) -> Check {
        Check {
            check_type,
            port: None,
            interval: clamp(self.interval),
            timeout: clamp(self.timeout),
            grace_period: clamp(self.grace_period),
            kind: None,
            method: self.method.clone(),
            path: self.path.clone(),
            protocol: self.protocol.clone(),
            tls_skip_verify: self.tls_skip_verify,
            tls_server_name: self.tls_server_name.clone(),
            headers: headers(&self.headers),
        }
    }
}

impl CheckSection {
    fn check(&self, http_port: Option<u16>) -> Check {
        Check {
            check_type: if self.check_type.as_deref() == Some("http") { CheckType::Http } else { CheckType::Tcp },
            port: self.port.or(http_port),
            interval: self.interval,
            timeout: self.timeout,
            grace_period: self.grace_period,
            kind: None,
            method: self.method.as_ref().map(|method| method.to_ascii_uppercase()),
            path: self.path.clone(),
            protocol: self.protocol.clone(),
            tls_skip_verify: self.tls_skip_verify,
            tls_server_name: self.tls_server_name.clone(),
            headers: headers(&self.headers),
        }
    }
}
