//! The directory of servers. A row is never deleted, so that no name is given to another server.
//!
//! A node's epoch is issued here: at its first join, and again whenever its state was lost. Raising
//! it fences whatever the node wrote before.

use std::net::{IpAddr, SocketAddr};

use atoll_model::{MachineId, NodeName, RegionCode};

use crate::value::{Row, params, stored_word};
use crate::{ReadTx, StoreError, WriteTx};

stored_word! {
    /// Where a server stands with the platform.
    NodeStatus {
        Active = "active",
        /// Keeps what it has, gets nothing new.
        Draining = "draining",
        /// Its identity is void.
        Revoked = "revoked",
        /// Given up; the name stays taken.
        Removed = "removed",
    }
}

impl NodeStatus {
    /// Revoked and removed: there is no way back.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Revoked | Self::Removed)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewNode {
    pub name: NodeName,
    pub region: RegionCode,
    /// Of the node's own key, which never leaves it.
    pub key_fingerprint: String,
    /// The epoch of the records the node still has; `None` when it has none.
    pub kept_epoch: Option<u64>,
    /// Whether the join token names this node: only then may a server with another key take the name.
    pub may_replace_key: bool,
    pub cpus: u32,
    pub memory_mb: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub name: NodeName,
    pub region: RegionCode,
    pub state: NodeStatus,
    pub epoch: u64,
    pub key_fingerprint: String,
    pub certificate_serial: Option<String>,
    pub certificate_expires_at_ms: Option<u64>,
    pub backhaul: Option<SocketAddr>,
    pub worker_rpc: Option<SocketAddr>,
    pub network: NodeNetwork,
    pub cpus: u32,
    pub memory_mb: u64,
    pub last_seen_ms: u64,
    pub created_at_ms: u64,
}

/// Where a node is found, as it said itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeNetwork {
    pub mesh: Option<NodeMesh>,
    pub gateway: Option<NodeGateway>,
    /// Where users reach its edge.
    pub public_addresses: Vec<IpAddr>,
    /// Zones of public DNS that it answers for.
    pub zones: Vec<String>,
    /// What leads back to it beside that, for machines to leave under.
    pub egress_addresses: Vec<IpAddr>,
}

/// A node's end of the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeMesh {
    /// 32 bytes in base64; no two nodes have the same.
    pub public_key: String,
    /// UDP.
    pub port: u16,
    /// TCP: where its net process talks to others.
    pub rpc_port: Option<u16>,
}

/// Where a node lets users' devices in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeGateway {
    /// 32 bytes in base64.
    pub public_key: String,
    /// UDP.
    pub port: u16,
    /// TCP.
    pub websocket_port: u16,
}

/// What a node says about itself while it is connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeReport {
    /// Ignored unless it is the node's current one.
    pub epoch: u64,
    pub backhaul: Option<SocketAddr>,
    pub worker_rpc: Option<SocketAddr>,
    pub cpus: u32,
    pub memory_mb: u64,
}

fn node(row: &Row) -> Result<Node, StoreError> {
    Ok(Node {
        name: row.parsed("name")?,
        region: row.parsed("region")?,
        state: row.parsed("state")?,
        epoch: row.unsigned("epoch")?,
        key_fingerprint: row.text("key_fingerprint")?,
        certificate_serial: row.text_opt("certificate_serial")?,
        certificate_expires_at_ms: row.unsigned_opt("certificate_expires_at")?,
        backhaul: row.parsed_opt("backhaul")?,
        worker_rpc: row.parsed_opt("worker_rpc")?,
        network: network(row)?,
        cpus: row.small("cpus")?,
        memory_mb: row.unsigned("memory_mb")?,
        last_seen_ms: row.unsigned("last_seen")?,
        created_at_ms: row.unsigned("created_at")?,
    })
}

fn network(row: &Row) -> Result<NodeNetwork, StoreError> {
    let port = |column| Ok::<_, StoreError>(row.unsigned_opt(column)?.and_then(|port| u16::try_from(port).ok()));
    let (public_key, mesh_port, rpc_port) = (row.text_opt("mesh_key")?, port("mesh_port")?, port("mesh_rpc_port")?);
    let ports = port("gateway_port")?.zip(port("gateway_websocket_port")?);
    let gateway = row.text_opt("gateway_key")?.zip(ports);
    let zones = row.text_opt("zones")?.unwrap_or_default();
    let addresses = |column| {
        let text = row.text_opt(column)?.unwrap_or_default();
        Ok::<_, StoreError>(text.split_ascii_whitespace().filter_map(|address| address.parse().ok()).collect())
    };
    Ok(NodeNetwork {
        mesh: public_key.zip(mesh_port).map(|(public_key, port)| NodeMesh { public_key, port, rpc_port }),
        gateway: gateway.map(|(public_key, (port, websocket_port))| NodeGateway { public_key, port, websocket_port }),
        public_addresses: addresses("public_addresses")?,
        egress_addresses: addresses("egress_addresses")?,
        zones: zones.split_ascii_whitespace().map(str::to_owned).collect(),
    })
}

impl ReadTx {
    pub async fn node_fetch(&self, name: &NodeName) -> Result<Node, StoreError> {
        let row = self.row_opt("SELECT * FROM nodes WHERE name = $1", params![name]).await?;
        node(&row.ok_or_else(|| StoreError::not_found("node", name))?)
    }

    /// All nodes by name, removed ones included.
    pub async fn node_list(&self) -> Result<Vec<Node>, StoreError> {
        self.rows("SELECT * FROM nodes ORDER BY name", params![]).await?.iter().map(node).collect()
    }
}

impl WriteTx {
    /// Enters a server into the directory, or lets a known one come back. One that still has its
    /// records keeps its epoch; one that lost them gets the next, and its machines are lost.
    /// Revoked and removed names are refused for ever.
    pub async fn node_enrol(&self, new: &NewNode, now_ms: u64) -> Result<Node, StoreError> {
        let epoch = match self.node_fetch(&new.name).await {
            Err(StoreError::NotFound { .. }) => 1,
            Err(error) => return Err(error),
            Ok(known) => self.epoch_of_returning(&known, new, now_ms).await?,
        };
        self.execute(
            "INSERT INTO nodes (name, region, state, epoch, key_fingerprint, cpus, memory_mb, last_seen,
                                created_at, updated_at)
             VALUES ($1, $2, 'active', $3, $4, $5, $6, $7, $7, $7)
             ON CONFLICT (name) DO UPDATE SET region = excluded.region, epoch = excluded.epoch,
                 key_fingerprint = excluded.key_fingerprint, cpus = excluded.cpus,
                 memory_mb = excluded.memory_mb, last_seen = excluded.last_seen, updated_at = excluded.updated_at",
            params![&new.name, new.region, epoch, &new.key_fingerprint, new.cpus, new.memory_mb, now_ms],
        )
        .await?;
        self.node_fetch(&new.name).await
    }

    /// A known name on a server that has nothing of what it had: its epoch becomes `epoch`, and its
    /// machines are lost.
    pub async fn node_begin_anew(&self, name: &NodeName, epoch: u64, now_ms: u64) -> Result<Node, StoreError> {
        self.machines_mark_lost(name, now_ms).await?;
        let sql = "UPDATE nodes SET epoch = $2, updated_at = $3 WHERE name = $1 AND epoch < $2";
        self.execute(sql, params![name, epoch, now_ms]).await?;
        self.node_fetch(name).await
    }

    async fn epoch_of_returning(&self, known: &Node, new: &NewNode, now_ms: u64) -> Result<u64, StoreError> {
        if known.state.is_over() {
            return Err(StoreError::taken("node", &new.name, None));
        }
        let same_key = known.key_fingerprint == new.key_fingerprint;
        if !same_key && !new.may_replace_key {
            return Err(StoreError::taken("node", &new.name, None));
        }
        if new.kept_epoch == Some(known.epoch) && same_key {
            return Ok(known.epoch);
        }
        self.machines_mark_lost(&new.name, now_ms).await?;
        Ok(known.epoch + 1)
    }

    /// Notes what a connected node says; a report of an older epoch changes nothing. Says whether it
    /// was taken.
    pub async fn node_report(&self, name: &NodeName, report: &NodeReport, now_ms: u64) -> Result<bool, StoreError> {
        let changed = self
            .execute(
                "UPDATE nodes SET backhaul = $3, worker_rpc = $4, cpus = $5, memory_mb = $6, last_seen = $7
                 WHERE name = $1 AND epoch = $2 AND state IN ('active', 'draining')",
                params![
                    name,
                    report.epoch,
                    report.backhaul.map(|address| address.to_string()),
                    report.worker_rpc.map(|address| address.to_string()),
                    report.cpus,
                    report.memory_mb,
                    now_ms,
                ],
            )
            .await?;
        Ok(changed > 0)
    }

    /// Notes where a node is found. Apps whose egress addresses came or went are not settled. A mesh key that another node has is refused: that node would lose its
    /// traffic.
    pub async fn node_set_network(
        &self,
        name: &NodeName,
        network: &NodeNetwork,
        now_ms: u64,
    ) -> Result<Node, StoreError> {
        if let Some(NodeMesh { public_key, .. }) = &network.mesh {
            let sql = "SELECT name FROM nodes WHERE mesh_key = $1 AND name <> $2";
            if self.row_opt(sql, params![public_key, name]).await?.is_some() {
                return Err(StoreError::taken("mesh key", public_key, None));
            }
        }
        let joined =
            |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<String>>().join(" ");
        let before = self.node_fetch(name).await?.network.egress_addresses;
        if before != network.egress_addresses {
            self.egress_unsettle(&[before.as_slice(), &network.egress_addresses].concat()).await?;
        }
        let sql = "UPDATE nodes SET mesh_key = $2, mesh_port = $3, mesh_rpc_port = $4, gateway_key = $5,
                       gateway_port = $6, gateway_websocket_port = $7, public_addresses = $8, zones = $9,
                       egress_addresses = $10, updated_at = $11
                   WHERE name = $1 AND state IN ('active', 'draining')";
        let (mesh, gateway) = (network.mesh.as_ref(), network.gateway.as_ref());
        self.execute(
            sql,
            params![
                name,
                mesh.map(|mesh| mesh.public_key.as_str()),
                mesh.map(|mesh| u64::from(mesh.port)),
                mesh.and_then(|mesh| mesh.rpc_port).map(u64::from),
                gateway.map(|gateway| gateway.public_key.as_str()),
                gateway.map(|gateway| u64::from(gateway.port)),
                gateway.map(|gateway| u64::from(gateway.websocket_port)),
                joined(&network.public_addresses),
                network.zones.join(" "),
                joined(&network.egress_addresses),
                now_ms,
            ],
        )
        .await?;
        self.node_fetch(name).await
    }

    pub async fn node_set_certificate(
        &self,
        name: &NodeName,
        serial: &str,
        expires_at_ms: u64,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE nodes SET certificate_serial = $2, certificate_expires_at = $3 WHERE name = $1";
        match self.execute(sql, params![name, serial, expires_at_ms]).await? {
            0 => Err(StoreError::not_found("node", name)),
            _ => Ok(()),
        }
    }

    /// Moves a node between states; from revoked and removed there is no way back.
    pub async fn node_set_state(&self, name: &NodeName, state: NodeStatus, now_ms: u64) -> Result<Node, StoreError> {
        let known = self.node_fetch(name).await?;
        if known.state.is_over() && !state.is_over() {
            return Err(StoreError::conflict("node", name, format!("it was {}", known.state)));
        }
        let sql = "UPDATE nodes SET state = $2, updated_at = $3 WHERE name = $1";
        self.execute(sql, params![name, state.as_str(), now_ms]).await?;
        self.node_fetch(name).await
    }

    /// Gives a lost server up: it is removed, its epoch raised so that nothing it ever says counts,
    /// and its machines are marked lost; doing so twice changes nothing. Returns the machines, which may be made again elsewhere.
    pub async fn node_remove_lost(&self, name: &NodeName, now_ms: u64) -> Result<(Node, Vec<MachineId>), StoreError> {
        if self.node_fetch(name).await?.state != NodeStatus::Removed {
            self.node_set_state(name, NodeStatus::Removed, now_ms).await?;
            self.execute("UPDATE nodes SET epoch = epoch + 1 WHERE name = $1", params![name]).await?;
        }
        let lost = self.machines_mark_lost(name, now_ms).await?;
        Ok((self.node_fetch(name).await?, lost))
    }
}
