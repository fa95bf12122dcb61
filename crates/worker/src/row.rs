//! A machine as others see it: its catalogue row, and the plain part of its view. Pure.

use std::net::Ipv4Addr;

use atoll_model::row::{MachineRow, ServiceRow};
use atoll_model::service::LoadBucket;
use atoll_model::{MachineState, NodeName};
use atoll_rpc::contract::{LaunchBundle, MachineView};

use crate::health::Health;

/// What changes between rows of one machine version.
pub struct Now<'a> {
    pub state: MachineState,
    pub cordoned: bool,
    pub health: &'a Health,
    /// By service index; missing: none.
    pub loads: &'a [u32],
    pub changed_at_ms: u64,
}

pub fn machine_row(bundle: &LaunchBundle, node: &NodeName, ipv4: Ipv4Addr, now: &Now<'_>) -> MachineRow {
    let services = bundle
        .config
        .services
        .iter()
        .enumerate()
        .map(|(index, service)| ServiceRow {
            service: service.clone(),
            healthy: now.health.is_ready(index),
            load: now.loads.get(index).map_or(LoadBucket::BelowSoft, |load| service.limits().bucket(*load)),
        })
        .collect();
    MachineRow {
        id: bundle.machine,
        app: bundle.app.clone(),
        network: bundle.network,
        node: node.clone(),
        region: bundle.region,
        version: bundle.version,
        state: now.state,
        cordoned: now.cordoned,
        private_ipv4: ipv4,
        private_ipv6: bundle.private_ipv6,
        process_group: bundle.config.process_group().to_owned(),
        services,
        changed_at_ms: now.changed_at_ms,
        metadata: bundle.config.name_metadata(),
        skip_dns: bundle.config.dns.skip_registration,
    }
}

/// The view of a machine as its bundle alone gives it.
pub fn plain_view(bundle: &LaunchBundle, node: &NodeName, state: MachineState) -> MachineView {
    MachineView {
        id: bundle.machine,
        name: bundle.name.clone(),
        app: bundle.app.clone(),
        state,
        region: bundle.region,
        node: node.clone(),
        version: bundle.version,
        image: bundle.image.clone(),
        private_ipv6: bundle.private_ipv6,
        created_at_ms: bundle.created_at_ms,
        updated_at_ms: bundle.created_at_ms,
        config: bundle.config.clone(),
        cordoned: bundle.cordoned,
        drained: false,
        secrets_version: bundle.secrets_version,
        limits: bundle.limits.clone(),
        events: Vec::new(),
        checks: Vec::new(),
        lease: None,
        boot_id: None,
        pid: None,
        earlier_versions: Vec::new(),
    }
}
