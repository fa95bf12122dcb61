//! A machine's configuration as the Machines API accepts and echoes it. Unknown fields are ignored
//! on the way in, as clients send some; documented ones that Atoll does not honour yet are kept,
//! so that what a client wrote is what it reads back.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::GoDuration;
use crate::guest::{Guest, GuestRequest, InvalidGuest};
use crate::service::{Check, CheckType, Port, Service};

/// `config` of a machine.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MachineConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub env: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    pub init: Init,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestRequest>,
    /// Deprecated preset name; exclusive with `guest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub restart: Restart,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_config: Option<StopConfig>,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub auto_destroy: bool,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub services: Vec<Service>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub checks: BTreeMap<String, Check>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub files: Vec<GuestFile>,
    #[serde(deserialize_with = "null_is_default")]
    pub dns: Dns,
    /// Documented fields that are kept and echoed; [`MachineConfig::unsupported`] names those
    /// whose meaning is not honoured.
    #[serde(flatten)]
    pub other: OtherFields,
}

/// Documented parts of the configuration that this version does not act on.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct OtherFields {
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = Vec<Object>)]
    pub mounts: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = Vec<Object>)]
    pub processes: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = Vec<Object>)]
    pub containers: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = Vec<Object>)]
    pub volumes: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = Object)]
    pub metrics: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = Vec<Object>)]
    pub statics: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = String)]
    pub schedule: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = Vec<String>)]
    pub standbys: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = Object)]
    pub rootfs: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = Object)]
    pub cache_drive: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = Object)]
    pub spot: serde_json::Value,
    #[serde(skip_serializing_if = "is_absent")]
    #[schema(value_type = bool)]
    pub disable_machine_autostart: serde_json::Value,
}

/// Clients send `null`, `""`, `[]` and `{}` for "not set".
fn is_absent(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => true,
        serde_json::Value::Bool(value) => !value,
        serde_json::Value::String(text) => text.is_empty(),
        serde_json::Value::Array(items) => items.is_empty(),
        serde_json::Value::Object(fields) => fields.is_empty(),
        serde_json::Value::Number(_) => false,
    }
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// Go clients send `null` for empty collections.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What the machine's first user process is; absent parts come from the image.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Init {
    /// Replaces entrypoint and command together.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub exec: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub tty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_size_mb: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub kernel_args: Vec<String>,
}

/// When an exited machine is started again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Restart {
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "empty_policy_is_none")]
    pub policy: Option<RestartPolicy>,
    /// Within five minutes; absent or 0: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[serde(alias = "never")]
    No,
    OnFailure,
    Always,
}

fn empty_policy_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<RestartPolicy>, D::Error> {
    use serde::de::{Error, IntoDeserializer};
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(policy) => {
            RestartPolicy::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(policy))
                .map(Some)
                .map_err(|_| {
                    D::Error::custom(format!(
                        "invalid restart policy {policy:?}: use \"no\", \"on-failure\" or \"always\""
                    ))
                })
        }
    }
}

impl Restart {
    pub fn policy(&self) -> RestartPolicy {
        self.policy.unwrap_or(RestartPolicy::OnFailure)
    }

    pub fn max_retries(&self) -> u32 {
        self.max_retries.filter(|retries| *retries > 0).unwrap_or(10)
    }
}

/// How a machine is asked to end.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StopConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
}

/// A file written into the machine before its process starts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GuestFile {
    pub guest_path: String,
    /// Base64 of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_value: Option<String>,
    /// Name of a secret that holds base64 of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_config: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Dns {
    #[serde(skip_serializing_if = "is_false", deserialize_with = "null_is_default")]
    pub skip_registration: bool,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub searches: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// A configuration that no machine can run; names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    #[error(transparent)]
    Guest(#[from] InvalidGuest),
    #[error("config.image is required: name an image such as \"my-app/web:latest\"")]
    NoImage,
    #[error("config.guest and config.size exclude each other: give one of them")]
    GuestAndSize,
    #[error("{field}: {problem}")]
    Field { field: String, problem: String },
}

fn field(field: impl Into<String>, problem: impl Into<String>) -> InvalidConfig {
    InvalidConfig::Field { field: field.into(), problem: problem.into() }
}

/// Signals that may stop a machine, per the Machines API.
pub const STOP_SIGNALS: &[&str] = &["SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM"];
/// Longest time between the stop signal and the forced kill.
pub const MAX_STOP_TIMEOUT: GoDuration = GoDuration::from_secs(300);
/// Time between the stop signal and the forced kill when nothing is configured.
pub const DEFAULT_STOP_TIMEOUT: GoDuration = GoDuration::from_secs(5);

/// Pairs of metadata by which a machine can be found by name.
const MAX_NAME_METADATA: usize = 32;
/// Longest key or value of such a pair: one label.
const MAX_NAME_METADATA_BYTES: usize = 63;

impl MachineConfig {
    /// The machine's size.
    pub fn resolved_guest(&self) -> Result<Guest, InvalidGuest> {
        match (&self.guest, self.size.as_deref()) {
            (Some(guest), _) => guest.resolve(),
            (None, Some(size)) if !size.is_empty() => Guest::preset(size),
            _ => Ok(Guest::DEFAULT),
        }
    }

    pub fn process_group(&self) -> &str {
        self.metadata
            .get("fly_process_group")
            .or_else(|| self.metadata.get("process_group"))
            .map_or("app", String::as_str)
    }

    /// A deploy made the machine: its release is named in the metadata.
    pub fn is_deployed(&self) -> bool {
        self.metadata.contains_key("fly_release_version")
    }

    /// The metadata by which machines can be found by name: keys and values that are labels of a
    /// domain name, a bounded number of them.
    pub fn name_metadata(&self) -> Arc<[(String, String)]> {
        let is_label = |text: &str| {
            (1..=MAX_NAME_METADATA_BYTES).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_graphic() && b != b'.')
        };
        let found = self.metadata.iter().filter(|(key, value)| is_label(key) && is_label(value));
        found.take(MAX_NAME_METADATA).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Names of documented fields that are set but not honoured by this version.
    pub fn unsupported(&self) -> Vec<&'static str> {
        let other = &self.other;
        [
            ("mounts", &other.mounts),
            ("processes", &other.processes),
            ("containers", &other.containers),
            ("volumes", &other.volumes),
            ("statics", &other.statics),
            ("schedule", &other.schedule),
            ("standbys", &other.standbys),
            ("cache_drive", &other.cache_drive),
        ]
        .into_iter()
        .filter(|(_, value)| !is_absent(value))
        .map(|(name, _)| name)
        .collect()
    }

    /// Whether every value is one that a machine can have.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        if self.image.is_empty() {
            return Err(InvalidConfig::NoImage);
        }
        if self.guest.is_some() && self.size.as_deref().is_some_and(|size| !size.is_empty()) {
            return Err(InvalidConfig::GuestAndSize);
        }
        self.resolved_guest()?;
        for name in self.env.keys() {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(field(format!("config.env[{name:?}]"), "a name must not be empty nor contain '=' or NUL"));
            }
        }
        if let Some(stop) = &self.stop_config {
            if let Some(signal) = stop.signal.as_deref().filter(|signal| !signal.is_empty())
                && !STOP_SIGNALS.contains(&signal)
            {
                return Err(field(
                    "config.stop_config.signal",
                    format!("{signal:?} is none of {}", STOP_SIGNALS.join(", ")),
                ));
            }
            if stop.timeout.is_some_and(|timeout| timeout > MAX_STOP_TIMEOUT) {
                return Err(field("config.stop_config.timeout", format!("must not exceed {MAX_STOP_TIMEOUT}")));
            }
        }
        for (index, service) in self.services.iter().enumerate() {
            validate_service(&format!("config.services[{index}]"), service)?;
        }
        for (name, check) in &self.checks {
            let at = format!("config.checks[{name:?}]");
            if check.port.is_none_or(|port| port == 0) {
                return Err(field(format!("{at}.port"), "is required"));
            }
            validate_check(&at, check)?;
        }
        for (index, file) in self.files.iter().enumerate() {
            if !file.guest_path.starts_with('/') || file.guest_path.split('/').any(|part| part == "..") {
                return Err(field(
                    format!("config.files[{index}].guest_path"),
                    "must be an absolute path without '..'",
                ));
            }
        }
        Ok(())
    }
}

fn validate_service(at: &str, service: &Service) -> Result<(), InvalidConfig> {
    if service.internal_port == 0 {
        return Err(field(format!("{at}.internal_port"), "must be 1 to 65535"));
    }
    for (index, port) in service.ports.iter().enumerate() {
        validate_port(&format!("{at}.ports[{index}]"), port)?;
    }
    let limits = service.limits();
    if limits.hard.is_some_and(|hard| hard < limits.soft)
        && service.concurrency.as_ref().is_some_and(|c| c.soft_limit.is_some())
    {
        return Err(field(format!("{at}.concurrency"), "hard_limit must not be below soft_limit"));
    }
    for (index, check) in service.checks.iter().enumerate() {
        validate_check(&format!("{at}.checks[{index}]"), check)?;
    }
    Ok(())
}

fn validate_port(at: &str, port: &Port) -> Result<(), InvalidConfig> {
    match (port.port, port.start_port, port.end_port) {
        (Some(1..), None, None) => Ok(()),
        (None, Some(start @ 1..), Some(end)) if start <= end => Ok(()),
        _ => Err(field(at, "needs either port or start_port and end_port, from 1 to 65535")),
    }
}

fn validate_check(at: &str, check: &Check) -> Result<(), InvalidConfig> {
    if check.check_type == CheckType::Http {
        if check.path.as_deref().is_some_and(|path| !path.starts_with('/')) {
            return Err(field(format!("{at}.path"), "must begin with '/'"));
        }
        if check.protocol.as_deref().is_some_and(|protocol| !matches!(protocol, "" | "http" | "https")) {
            return Err(field(format!("{at}.protocol"), "must be \"http\" or \"https\""));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> MachineConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn only_metadata_that_makes_labels_makes_names() {
        let long = "x".repeat(64);
        let config: MachineConfig = serde_json::from_value(serde_json::json!({
            "metadata": {"color": "blue", "a.b": "c", "site": "a.b", "note": "two words", "empty": "", "long": long},
        }))
        .unwrap();
        assert_eq!(*config.name_metadata(), [("color".to_owned(), "blue".to_owned())]);
    }

    #[test]
    fn what_go_clients_send_for_nothing_is_nothing() {
        let parsed = config(
            r#"{"image": "a", "env": null, "services": null, "init": {}, "restart": {"policy": ""}, "mounts": [], "lsvd": true}"#,
        );
        let echo = |config: &MachineConfig| serde_json::to_value(config).unwrap();
        assert_eq!(echo(&parsed), echo(&config(r#"{"image": "a"}"#)));
        assert!(parsed.unsupported().is_empty());
        assert_eq!(parsed.restart.policy(), RestartPolicy::OnFailure);
    }

    #[test]
    fn the_echo_carries_what_was_written() {
        let text = r#"{"image":"a","init":{},"restart":{"policy":"on-failure"},"mounts":[{"path":"/data","volume":"vol_1"}],"dns":{}}"#;
        let echoed: serde_json::Value = serde_json::to_value(config(text)).unwrap();
        assert_eq!(echoed, serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(config(text).unsupported(), ["mounts"]);
    }

    #[test]
    fn errors_name_the_field() {
        for (json, expected) in [
            (r#"{}"#, "config.image"),
            (r#"{"image":"a","guest":{}}"#, "config.guest.cpu_kind"),
            (r#"{"image":"a","env":{"A=B":"1"}}"#, "config.env"),
            (r#"{"image":"a","stop_config":{"signal":"SIGFOO"}}"#, "config.stop_config.signal"),
            (r#"{"image":"a","stop_config":{"timeout":"10m"}}"#, "config.stop_config.timeout"),
            (r#"{"image":"a","services":[{"internal_port":0}]}"#, "config.services[0].internal_port"),
            (
                r#"{"image":"a","services":[{"internal_port":1,"ports":[{"start_port":9,"end_port":3}]}]}"#,
                "config.services[0].ports[0]",
            ),
            (r#"{"image":"a","checks":{"up":{"type":"tcp"}}}"#, "config.checks[\"up\"].port"),
            (r#"{"image":"a","files":[{"guest_path":"/a/../b"}]}"#, "config.files[0].guest_path"),
        ] {
            let error = config(json).validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
        assert!(serde_json::from_str::<MachineConfig>(r#"{"restart":{"policy":"sometimes"}}"#).is_err());
    }
}
