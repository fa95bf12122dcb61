//! fly.toml's content as types, in its canonical shape. Serialised it is a release's `definition`
//! (JSON) or a file to write back (TOML); both read back to the same value.

use std::collections::BTreeMap;

use atoll_model::service::{HttpOptions, LoadKind, ProxyProtoOptions, TlsOptions};
use atoll_model::{AppName, GoDuration, RegionCode};
use serde::{Deserialize, Serialize};

/// Declares a section: every key may be absent, absent keys are not written, unknown ones are the
/// table of keys' business and never arrive here.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "is_default")] pub $field: $type,)*
        }
    };
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

section! {
    /// A whole file.
    Manifest {
        app: Option<AppName>,
        primary_region: Option<RegionCode>,
        kill_signal: Option<String>,
        kill_timeout: Option<GoDuration>,
        console_command: Option<String>,
        build: Build,
        deploy: Deploy,
        env: BTreeMap<String, String>,
        processes: BTreeMap<String, String>,
        http_service: Option<HttpService>,
        services: Vec<ServiceSection>,
        checks: BTreeMap<String, CheckSection>,
        vm: Vec<Vm>,
        restart: Vec<RestartSection>,
        files: Vec<FileSection>,
        experimental: Experimental,
    }
}

section! { Build { image: Option<String>, } }

section! {
    Deploy {
        strategy: Option<Strategy>,
        max_unavailable: Option<f64>,
        wait_timeout: Option<GoDuration>,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    #[default]
    Rolling,
    Immediate,
}

section! {
    HttpService {
        internal_port: Option<u16>,
        force_https: bool,
        auto_stop_machines: Option<AutostopText>,
        auto_start_machines: Option<bool>,
        min_machines_running: Option<u32>,
        idle_timeout: Option<GoDuration>,
        processes: Vec<String>,
        concurrency: Option<ConcurrencySection>,
        tls_options: Option<TlsOptions>,
        http_options: Option<HttpOptions>,
        checks: Vec<ServiceCheck>,
    }
}

section! {
    ServiceSection {
        protocol: Option<String>,
        internal_port: Option<u16>,
        auto_stop_machines: Option<AutostopText>,
        auto_start_machines: Option<bool>,
        min_machines_running: Option<u32>,
        idle_timeout: Option<GoDuration>,
        processes: Vec<String>,
        concurrency: Option<ConcurrencySection>,
        ports: Vec<PortSection>,
        tcp_checks: Vec<ServiceCheck>,
        http_checks: Vec<ServiceCheck>,
    }
}

/// `auto_stop_machines` as files spell it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AutostopText {
    Off,
    Stop,
    Suspend,
}

section! {
    PortSection {
        port: Option<u16>,
        start_port: Option<u16>,
        end_port: Option<u16>,
        handlers: Vec<String>,
        force_https: bool,
        tls_options: Option<TlsOptions>,
        http_options: Option<HttpOptions>,
        proxy_proto_options: Option<ProxyProtoOptions>,
    }
}

section! {
    ConcurrencySection {
        #[serde(rename = "type")]
        kind: Option<LoadKind>,
        soft_limit: Option<u32>,
        hard_limit: Option<u32>,
    }
}

section! {
    /// A TCP or HTTP check of a service; for TCP only the durations are set.
    ServiceCheck {
        interval: Option<GoDuration>,
        timeout: Option<GoDuration>,
        grace_period: Option<GoDuration>,
        method: Option<String>,
        path: Option<String>,
        protocol: Option<String>,
        tls_skip_verify: Option<bool>,
        tls_server_name: Option<String>,
        headers: BTreeMap<String, String>,
    }
}

section! {
    /// A check of the machine, `[checks.NAME]`.
    CheckSection {
        #[serde(rename = "type")]
        check_type: Option<String>,
        port: Option<u16>,
        interval: Option<GoDuration>,
        timeout: Option<GoDuration>,
        grace_period: Option<GoDuration>,
        method: Option<String>,
        path: Option<String>,
        protocol: Option<String>,
        tls_skip_verify: Option<bool>,
        tls_server_name: Option<String>,
        headers: BTreeMap<String, String>,
        processes: Vec<String>,
    }
}

section! {
    Vm {
        size: Option<String>,
        /// MB.
        memory: Option<u32>,
        cpu_kind: Option<String>,
        cpus: Option<u32>,
        memory_mb: Option<u32>,
        processes: Vec<String>,
    }
}

section! {
    RestartSection {
        policy: Option<String>,
        retries: Option<u32>,
        processes: Vec<String>,
    }
}

section! {
    FileSection {
        guest_path: Option<String>,
        local_path: Option<String>,
        secret_name: Option<String>,
        raw_value: Option<String>,
        processes: Vec<String>,
    }
}

section! {
    Experimental {
        cmd: Vec<String>,
        entrypoint: Vec<String>,
        exec: Vec<String>,
        kill_timeout: Option<GoDuration>,
    }
}

impl Deploy {
    /// Absent: [`DEFAULT_MAX_UNAVAILABLE`].
    pub fn max_unavailable(&self) -> f64 {
        self.max_unavailable.unwrap_or(DEFAULT_MAX_UNAVAILABLE)
    }

    /// Absent: [`DEFAULT_WAIT_TIMEOUT`].
    pub fn wait_timeout(&self) -> GoDuration {
        self.wait_timeout.unwrap_or(DEFAULT_WAIT_TIMEOUT)
    }
}

/// A third of a group's machines at a time.
pub const DEFAULT_MAX_UNAVAILABLE: f64 = 0.33;
/// How long a new machine may take to show that it works.
pub const DEFAULT_WAIT_TIMEOUT: GoDuration = GoDuration::from_secs(5 * 60);

impl Manifest {
    /// The process groups, sorted; `app` alone when the file names none.
    pub fn groups(&self) -> Vec<&str> {
        if self.processes.is_empty() { vec!["app"] } else { self.processes.keys().map(String::as_str).collect() }
    }

    /// The group that sections without `processes` belong to.
    pub fn default_group(&self) -> &str {
        let groups = self.groups();
        if groups.contains(&"app") { "app" } else { groups.first().copied().unwrap_or("app") }
    }

    /// Whether a section with these `processes` belongs to `group`.
    pub(crate) fn applies(&self, processes: &[String], group: &str) -> bool {
        if processes.is_empty() { group == self.default_group() } else { processes.iter().any(|name| name == group) }
    }

    /// Whether machines of this group are reached through the proxy.
    pub fn has_services(&self, group: &str) -> bool {
        self.http_service.as_ref().is_some_and(|http| self.applies(&http.processes, group))
            || self.services.iter().any(|service| self.applies(&service.processes, group))
    }

    /// Files that whoever holds the folder must read before machines can be made.
    pub fn local_paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().filter_map(|file| file.local_path.as_deref())
    }

    /// The release definition; reads back as a `.json` file.
    pub fn definition(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The file's text, in canonical shape.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let app = self.app.as_ref().map_or("(no name)", AppName::as_str);
        let header = format!("# fly.toml of {app}, written by atoll.\n# Every key: docs/fly-toml.md\n\n");
        toml::to_string_pretty(self).map(|text| header + &text)
    }
}
