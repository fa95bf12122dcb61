//! Machines as the Machines API shows them. Pure: from what the worker says to the documented JSON.

use std::net::Ipv6Addr;

use serde::Serialize;
use utoipa::ToSchema;

use atoll_model::machine::{CheckResult, Event};
use atoll_model::{MachineConfig, MachineId, MachineVersion, RegionCode};
use atoll_rpc::contract::{EarlierVersion, MachineView, PinnedImage};

use crate::time::rfc3339_seconds;

/// How sure we are of what is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HostStatus {
    /// The machine's own worker said it.
    Ok,
    /// Control's copy, of a node that is not heard.
    Unreachable,
}

/// What a caller asked to see besides the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details {
    pub lease: bool,
    /// Leave out configuration, checks, events, host status.
    pub summary: bool,
}

/// A machine. What a summary leaves out is absent.
#[derive(Serialize, ToSchema)]
pub struct Machine {
    id: MachineId,
    name: String,
    /// Of an earlier version: `replaced`.
    state: String,
    region: RegionCode,
    /// The same as `version`.
    instance_id: MachineVersion,
    version: MachineVersion,
    #[schema(value_type = String)]
    private_ip: Ipv6Addr,
    created_at: String,
    updated_at: String,
    image_ref: ImageRef,
    cordoned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<MachineConfig>,
    /// Newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<Event>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Vec<CheckResult>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_status: Option<HostStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<StrippedLease>,
    /// Of the lease that was asked for with the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
}

/// A lease without its nonce.
#[derive(Serialize, ToSchema)]
struct StrippedLease {
    owner: String,
    description: String,
    /// Unix seconds.
    expires_at: u64,
    version: MachineVersion,
}

/// An image's reference in parts.
#[derive(Serialize, ToSchema)]
struct ImageRef {
    registry: String,
    repository: String,
    tag: String,
    digest: String,
}

impl Machine {
    pub fn new(view: MachineView, host: HostStatus, details: Details) -> Self {
        let in_full = !details.summary;
        let lease = view.lease.filter(|_| details.lease).map(|lease| StrippedLease {
            owner: lease.owner,
            description: lease.description,
            expires_at: lease.expires_at,
            version: lease.version,
        });
        Self {
            id: view.id,
            name: view.name,
            state: view.state.to_string(),
            region: view.region,
            instance_id: view.version,
            version: view.version,
            private_ip: view.private_ipv6,
            created_at: rfc3339_seconds(view.created_at_ms),
            updated_at: rfc3339_seconds(view.updated_at_ms),
            image_ref: ImageRef::new(&view.image),
            cordoned: view.cordoned,
            config: in_full.then_some(view.config),
            events: in_full.then_some(view.events),
            checks: in_full.then_some(view.checks),
            host_status: in_full.then_some(host),
            lease,
            nonce: None,
        }
    }

    /// With the nonce of a lease that was asked for with it.
    pub fn with_nonce(self, nonce: Option<String>) -> Self {
        Self { nonce, ..self }
    }

    /// A superseded version of a machine.
    pub fn replaced(view: MachineView, earlier: EarlierVersion) -> Self {
        Self {
            state: "replaced".into(),
            instance_id: earlier.version,
            version: earlier.version,
            config: Some(earlier.config),
            ..Self::new(view, HostStatus::Ok, Details::default())
        }
    }
}

impl ImageRef {
    /// Of `registry/repository:tag@digest`.
    fn new(image: &PinnedImage) -> Self {
        let without_digest = image.reference.split_once('@').map_or(image.reference.as_str(), |(name, _)| name);
        let (registry, path) = match without_digest.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => ("", without_digest),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (path, "latest"),
        };
        Self { registry: registry.into(), repository: repository.into(), tag: tag.into(), digest: image.digest.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_references_are_shown_in_parts() {
        let parts = |reference: &str| {
            let shown = ImageRef::new(&PinnedImage { reference: reference.into(), digest: "sha256:0".into() });
            [shown.registry, shown.repository, shown.tag]
        };
        assert_eq!(parts("my-app/web"), ["", "my-app/web", "latest"]);
        assert_eq!(parts("my-app/web:v2"), ["", "my-app/web", "v2"]);
        assert_eq!(parts("localhost:5000/web:v2"), ["localhost:5000", "web", "v2"]);
        assert_eq!(parts("registry.example/a/b@sha256:00"), ["registry.example", "a/b", "latest"]);
    }
}
