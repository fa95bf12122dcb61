//! Control's own rows of the catalogue, made from its records: apps, nodes, certificates. Publishing
//! what is already published changes nothing, so a full pass may run at any time.

use std::net::SocketAddr;
use std::sync::Arc;

use atoll_model::reserved::api_host;
use atoll_model::row::{AppRow, CertificateRow, MeshEnd, NodeRow, NodeState, Reader};
use atoll_model::{NodeName, Row, RowKey, RowVersion};
use atoll_store::{AddressKind, App, AppAddress, AppStatus, Node, NodeStatus, PageRequest};

use tokio::sync::watch;

use crate::devices::gateway_end;
use crate::{Control, ControlError, ControlResult};

/// Where control's rows go: the catalogue's publisher.
pub trait RowSink: Send + Sync {
    /// Publishes unless the same content is already there; answers the row's version.
    fn put(&self, row: Row) -> Option<RowVersion>;
    /// None if it was not there.
    fn delete(&self, key: RowKey) -> Option<RowVersion>;
    /// Of the latest write.
    fn position(&self) -> RowVersion;
}

/// How far servers have come with control's rows: the catalogue's hub.
pub trait Readers: Send + Sync {
    /// Whether a process of a server goes by this write of a row, or by a later one. After a start of control
    /// nothing is known of a server until it watches again.
    fn goes_by(&self, node: &NodeName, reader: Reader, key: &RowKey, version: RowVersion) -> bool;
    /// Changes whenever any of them said something.
    fn acknowledged(&self) -> watch::Receiver<u64>;
}

/// Certificates of the app domain live this long.
const CERTIFICATE_LIFE: std::time::Duration = std::time::Duration::from_secs(90 * 86_400);

/// An app's row, with the addresses that it has.
pub fn app_row(app: &App, addresses: &[AppAddress]) -> Row {
    let of =
        |fits: fn(&AppAddress) -> bool| addresses.iter().filter(|held| fits(held)).map(|held| held.address).collect();
    Row::App(AppRow {
        name: app.name.clone(),
        org: app.org.clone(),
        network: app.network,
        primary_region: app.primary_region,
        hostnames: Vec::new(),
        addresses: of(|held| held.kind != AddressKind::Shared),
        shared_addresses: of(|held| held.kind == AddressKind::Shared),
        local_addresses: of(|held| held.host_route),
    })
}

/// A node's row. One that was removed stays as revoked: its name is never given to another.
pub fn node_row(node: &Node) -> Row {
    let state = match node.state {
        NodeStatus::Active => NodeState::Active,
        NodeStatus::Draining => NodeState::Draining,
        NodeStatus::Revoked | NodeStatus::Removed => NodeState::Revoked,
    };
    Row::Node(NodeRow {
        name: node.name.clone(),
        region: node.region,
        state,
        epoch: node.epoch,
        backhaul: node.backhaul,
        worker_rpc: node.worker_rpc,
        public_addresses: match node.network.public_addresses.as_slice() {
            [] => node.backhaul.iter().map(|backhaul| backhaul.ip()).collect(),
            told => told.to_vec(),
        },
        egress_addresses: node.network.egress_addresses.clone(),
        mesh: node.network.mesh.as_ref().zip(node.backhaul).map(|(mesh, backhaul)| MeshEnd {
            public_key: mesh.public_key.clone(),
            endpoint: SocketAddr::new(backhaul.ip(), mesh.port),
            rpc: mesh.rpc_port.map(|port| SocketAddr::new(backhaul.ip(), port)),
        }),
        gateway: gateway_end(node),
        zones: node.network.zones.clone(),
    })
}

impl Control {
    /// Publishes everything that the records hold; at start, and again whenever in doubt.
    pub async fn publish_all(&self) -> ControlResult<()> {
        let apps = self.all_apps().await?;
        let nodes = self.refresh_nodes().await?;
        let addresses = self.addresses_by_app().await?;
        let of = |app: &App| app_row(app, addresses.get(&app.name).map_or(&[], Vec::as_slice));
        let apps_there = apps.iter().filter(|app| app.status != AppStatus::Deleting);
        for row in apps_there.map(of).chain(nodes.iter().map(node_row)) {
            self.rows.put(row);
        }
        for row in self.device_rows().await?.into_iter().chain(self.challenge_rows().await?) {
            self.rows.put(row);
        }
        self.publish_certificates(&apps)?;
        Ok(())
    }

    /// Reads the nodes into the directory.
    pub async fn refresh_nodes(&self) -> ControlResult<Vec<Node>> {
        let nodes = self.store.read(|tx| async move { tx.node_list().await }).await?;
        self.directory.replace(nodes.clone());
        Ok(nodes)
    }

    pub async fn all_apps(&self) -> ControlResult<Vec<App>> {
        let mut apps = Vec::new();
        let mut page = PageRequest::default();
        loop {
            let request = page.clone();
            let answer = self
                .store
                .read(move |tx| {
                    let request = request.clone();
                    async move { tx.app_list(None, &request).await }
                })
                .await?;
            apps.extend(answer.items);
            match answer.next {
                Some(cursor) => page.cursor = Some(cursor),
                None => return Ok(apps),
            }
        }
    }

    /// New certificates for the app domain, of the authority that signs now.
    pub async fn republish_certificates(&self) -> ControlResult<()> {
        self.publish_certificates(&self.all_apps().await?)
    }

    /// Certificates from our own authority for the app domain and everything under it. Made anew at
    /// each start: edges take whichever they saw last.
    fn publish_certificates(&self, apps: &[App]) -> ControlResult<()> {
        let domain = &self.settings.app_domain;
        self.publish_certificate(domain)?;
        self.publish_certificate(&format!("*.{domain}"))?;
        // Of its own, for the reason below.
        self.publish_certificate(&api_host(domain))?;
        for app in apps {
            self.publish_app_certificate(app)?;
        }
        Ok(())
    }

    /// Clients refuse a wildcard under a single label such as `*.localhost`; there each app has a
    /// certificate of its own.
    pub(crate) fn publish_app_certificate(&self, app: &App) -> ControlResult<()> {
        let domain = &self.settings.app_domain;
        if domain.contains('.') { Ok(()) } else { self.publish_certificate(&format!("{}.{domain}", app.name)) }
    }

    fn publish_certificate(&self, host: &str) -> ControlResult<()> {
        let now = self.now_ms() / 1000;
        let (chain_pem, key_pem) =
            self.authority.issue_hosts(&[host.to_owned()], now, CERTIFICATE_LIFE).map_err(ControlError::internal)?;
        let not_after = now + CERTIFICATE_LIFE.as_secs();
        self.rows.put(Row::Certificate(CertificateRow { host: Arc::from(host), chain_pem, key_pem, not_after }));
        Ok(())
    }
}
