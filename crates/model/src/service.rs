//! Services: what of a machine the proxy exposes, on which ports, with which limits and checks.
//! Field names and defaults are those of `config.services[]` in the Machines API.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::GoDuration;

/// One service of a machine: an internal port reached through external ports.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Service {
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    pub internal_port: u16,
    #[serde(default)]
    pub ports: Vec<Port>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autostop: Option<Autostop>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autostart: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_machines_running: Option<u32>,
    /// Ours: how long a machine without any open request stays up when `autostop` is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<GoDuration>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_instance_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_instance_description: Option<String>,
}

fn tcp() -> Protocol {
    Protocol::Tcp
}

/// Idle time before an autostop machine stops, when the service names none.
pub const DEFAULT_IDLE_TIMEOUT: GoDuration = GoDuration::from_secs(5 * 60);

impl Service {
    /// Limits with the documented defaults filled in.
    pub fn limits(&self) -> Limits {
        let concurrency = self.concurrency.clone().unwrap_or_default();
        Limits {
            kind: concurrency.kind,
            soft: concurrency.soft_limit.unwrap_or(20),
            hard: concurrency.hard_limit.filter(|hard| *hard > 0),
        }
    }

    /// The proxy starts stopped machines of a service unless it says otherwise.
    pub fn starts_on_request(&self) -> bool {
        self.autostart.unwrap_or(true)
    }

    pub fn autostop(&self) -> Autostop {
        self.autostop.unwrap_or(Autostop::Off)
    }

    pub fn idle_timeout(&self) -> GoDuration {
        self.idle_timeout.unwrap_or(DEFAULT_IDLE_TIMEOUT)
    }

    /// The port entry that covers an external port.
    pub fn port(&self, external: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.covers(external))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// An external port (or range) and what the edge does with its bytes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Port {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
    pub handlers: Vec<Handler>,
    #[serde(skip_serializing_if = "is_false")]
    pub force_https: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_options: Option<TlsOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_options: Option<HttpOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_proto_options: Option<ProxyProtoOptions>,
}

fn is_false(value: &bool) -> bool {
    !*value
}

impl Port {
    pub fn covers(&self, external: u16) -> bool {
        match (self.port, self.start_port, self.end_port) {
            (Some(port), _, _) => port == external,
            (None, Some(start), Some(end)) => (start..=end).contains(&external),
            _ => false,
        }
    }

    pub fn has(&self, handler: Handler) -> bool {
        self.handlers.contains(&handler)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Handler {
    /// `edge_http` is an obsolete spelling that old configurations still carry.
    #[serde(alias = "edge_http")]
    Http,
    Tls,
    PgTls,
    ProxyProto,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TlsOptions {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_self_signed: Option<bool>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HttpOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress: Option<bool>,
    /// Speak HTTP/2 with prior knowledge to the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub h2_backend: Option<bool>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<u64>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_read_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<HttpResponseOptions>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replay_cache: Vec<serde_json::Value>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HttpResponseOptions {
    /// `false` removes a header, a text sets it, an array sets several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, serde_json::Value>,
    /// Add none of `Server`, `Via`, `Fly-Request-Id`, `Fly-Cache-Status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pristine: Option<bool>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ProxyProtoOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What counts as load, and from where on a machine gets none.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Concurrency {
    #[serde(rename = "type")]
    pub kind: LoadKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_limit: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoadKind {
    #[default]
    Connections,
    Requests,
}

/// [`Concurrency`] with defaults applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub kind: LoadKind,
    pub soft: u32,
    /// `None`: no limit.
    pub hard: Option<u32>,
}

/// What happens to an idle machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Autostop {
    #[default]
    Off,
    Stop,
    Suspend,
}

impl Serialize for Autostop {
    /// The API answers booleans for off and stop, and the text for suspend.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::Stop => serializer.serialize_bool(true),
            Self::Suspend => serializer.serialize_str("suspend"),
        }
    }
}

impl ToSchema for Autostop {}

impl PartialSchema for Autostop {
    fn schema() -> RefOr<Schema> {
        let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["off", "stop", "suspend"]));
        OneOfBuilder::new()
            .item(ObjectBuilder::new().schema_type(Type::Boolean))
            .item(word)
            .description(Some("false or \"off\", true or \"stop\", or \"suspend\""))
            .into()
    }
}

impl<'de> Deserialize<'de> for Autostop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Autostop;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"off\", \"stop\", \"suspend\" or a boolean")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Autostop, E> {
                Ok(if value { Autostop::Stop } else { Autostop::Off })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Autostop, E> {
                match text {
                    "off" | "false" => Ok(Autostop::Off),
                    "stop" | "true" => Ok(Autostop::Stop),
                    "suspend" => Ok(Autostop::Suspend),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A health check, of a service or of a machine (then with `kind`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Check {
    #[serde(rename = "type")]
    pub check_type: CheckType,
    /// Absent in a service's check: the service's internal port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<GoDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// Excuses failures after a start; it never delays a probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<GoDuration>,
    /// Only machine checks have one; `readiness` takes a failing machine out of the routing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<CheckKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_skip_verify: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<CheckHeader>,
}

/// A request header that a check sends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckHeader {
    pub name: String,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckType {
    Tcp,
    Http,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    #[default]
    Informational,
    Readiness,
}

/// What a check last said. `warning`: not yet passed, failures still excused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    Passing,
    Warning,
    Critical,
}

/// Load of a machine's service, as routing sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadBucket {
    #[default]
    BelowSoft,
    /// Used only when every other machine of the region is there too.
    BelowHard,
    /// Gets nothing.
    AtHard,
}

impl Limits {
    /// The bucket of `load` concurrent connections or requests.
    pub fn bucket(&self, load: u32) -> LoadBucket {
        if self.hard.is_some_and(|hard| load >= hard) {
            LoadBucket::AtHard
        } else if load >= self.soft {
            LoadBucket::BelowHard
        } else {
            LoadBucket::BelowSoft
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autostop_reads_both_spellings_and_writes_the_apis() {
        for (json, value, written) in [
            ("\"off\"", Autostop::Off, "false"),
            ("false", Autostop::Off, "false"),
            ("\"stop\"", Autostop::Stop, "true"),
            ("true", Autostop::Stop, "true"),
            ("\"suspend\"", Autostop::Suspend, "\"suspend\""),
        ] {
            let parsed: Autostop = serde_json::from_str(json).unwrap();
            assert_eq!(parsed, value);
            assert_eq!(serde_json::to_string(&parsed).unwrap(), written);
        }
        assert!(serde_json::from_str::<Autostop>("\"later\"").is_err());
    }

    #[test]
    fn limits_have_the_documented_defaults() {
        let service: Service = serde_json::from_str(r#"{"internal_port": 8080}"#).unwrap();
        assert_eq!(service.limits(), Limits { kind: LoadKind::Connections, soft: 20, hard: None });
        assert!(service.starts_on_request());
        assert_eq!(service.autostop(), Autostop::Off);
    }

    #[test]
    fn buckets_follow_the_limits() {
        let limits = Limits { kind: LoadKind::Requests, soft: 2, hard: Some(4) };
        assert_eq!(
            [0, 1, 2, 3, 4, 9].map(|load| limits.bucket(load)),
            [
                LoadBucket::BelowSoft,
                LoadBucket::BelowSoft,
                LoadBucket::BelowHard,
                LoadBucket::BelowHard,
                LoadBucket::AtHard,
                LoadBucket::AtHard,
            ]
        );
    }

    #[test]
    fn a_port_range_covers_its_ends() {
        let port = Port { start_port: Some(5000), end_port: Some(5002), ..Port::default() };
        assert!(port.covers(5000) && port.covers(5002) && !port.covers(5003));
    }
}
