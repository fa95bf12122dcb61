//! Machines as the Machines API shows them. Pure: from what the worker says to the documented JSON.

use serde_json::{Value, json};

use atoll_model::MachineConfig;
use atoll_model::machine::Lease;
use atoll_rpc::contract::{MachineView, PinnedImage};

use crate::time::rfc3339_seconds;

/// How sure we are of what is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostStatus {
    /// The machine's own worker said it.
    Ok,
    /// Control's copy, of a node that is not heard.
    Unreachable,
}

impl HostStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What a caller asked to see besides the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details {
    pub lease: bool,
    /// Leave out configuration, checks, events, host status.
    pub summary: bool,
}

/// The machine object.
pub fn machine(view: &MachineView, host: HostStatus, details: Details) -> Value {
    let mut body = json!({
        "id": view.id,
        "name": view.name,
        "state": view.state,
        "region": view.region,
        "instance_id": view.version,
        "version": view.version,
        "private_ip": view.private_ipv6,
        "created_at": rfc3339_seconds(view.created_at_ms),
        "updated_at": rfc3339_seconds(view.updated_at_ms),
        "image_ref": image_ref(&view.image),
        "cordoned": view.cordoned,
    });
    if !details.summary {
        body["config"] = config(&view.config);
        body["incomplete_config"] = Value::Null;
        body["events"] = json!(view.events);
        body["checks"] = json!(view.checks);
        body["host_status"] = host.as_str().into();
    }
    if details.lease
        && let Some(lease) = &view.lease
    {
        body["lease"] = json!({
            "owner": lease.owner,
            "description": lease.description,
            "expires_at": lease.expires_at,
            "version": lease.version,
        });
    }
    body
}

/// The configuration as it is echoed.
pub fn config(config: &MachineConfig) -> Value {
    json!(config)
}

/// A superseded version of a machine.
pub fn replaced(view: &MachineView, version: &atoll_rpc::contract::EarlierVersion) -> Value {
    let mut body = machine(view, HostStatus::Ok, Details::default());
    body["state"] = "replaced".into();
    body["instance_id"] = json!(version.version);
    body["version"] = json!(version.version);
    body["config"] = config(&version.config);
    body
}

/// Answer envelope of the lease routes: clients need `data.nonce`.
pub fn lease(lease: &Lease) -> Value {
    json!({"status": "success", "data": lease})
}

/// `registry/repository:tag@digest`, in parts.
fn image_ref(image: &PinnedImage) -> Value {
    let without_digest = image.reference.split_once('@').map_or(image.reference.as_str(), |(name, _)| name);
    let (registry, path) = match without_digest.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("", without_digest),
    };
    let (repository, tag) = match path.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (path, "latest"),
    };
    json!({"registry": registry, "repository": repository, "tag": tag, "digest": image.digest, "labels": null})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_references_are_shown_in_parts() {
        let parts = |reference: &str| {
            let shown = image_ref(&PinnedImage { reference: reference.into(), digest: "sha256:0".into() });
            ["registry", "repository", "tag"].map(|key| shown[key].as_str().unwrap().to_owned())
        };
        assert_eq!(parts("my-app/web"), ["", "my-app/web", "latest"]);
        assert_eq!(parts("my-app/web:v2"), ["", "my-app/web", "v2"]);
        assert_eq!(parts("localhost:5000/web:v2"), ["localhost:5000", "web", "v2"]);
        assert_eq!(parts("registry.example/a/b@sha256:00"), ["registry.example", "a/b", "latest"]);
    }
}
