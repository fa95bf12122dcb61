//! The control processes that are alive and the edges each one answers for. A barrier asks every
//! leased edge, whichever process it is connected to.

use atoll_model::NodeName;

use crate::value::{Row, params};
use crate::{ReadTx, StoreError, WriteTx};

/// A control process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hub {
    pub id: String,
    /// Where other control processes reach it.
    pub address: String,
    pub started_at_ms: u64,
    pub heartbeat_at_ms: u64,
}

/// Until when a control process answers for an edge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EdgeLease {
    pub edge: NodeName,
    pub hub: String,
    pub leased_until_ms: u64,
}

fn hub(row: &Row) -> Result<Hub, StoreError> {
    Ok(Hub {
        id: row.text("id")?,
        address: row.text("address")?,
        started_at_ms: row.unsigned("started_at")?,
        heartbeat_at_ms: row.unsigned("heartbeat_at")?,
    })
}

fn edge_lease(row: &Row) -> Result<EdgeLease, StoreError> {
    Ok(EdgeLease { edge: row.parsed("edge")?, hub: row.text("hub")?, leased_until_ms: row.unsigned("leased_until")? })
}

impl ReadTx {
    /// Hubs heard of since `since_ms`.
    pub async fn hub_list(&self, since_ms: u64) -> Result<Vec<Hub>, StoreError> {
        let sql = "SELECT * FROM hubs WHERE heartbeat_at >= $1 ORDER BY id";
        self.rows(sql, params![since_ms]).await?.iter().map(hub).collect()
    }

    /// Edges whose lease has not run out.
    pub async fn edge_leases(&self, now_ms: u64) -> Result<Vec<EdgeLease>, StoreError> {
        let sql = "SELECT * FROM hub_edges WHERE leased_until > $1 ORDER BY edge";
        self.rows(sql, params![now_ms]).await?.iter().map(edge_lease).collect()
    }
}

impl WriteTx {
    pub async fn hub_heartbeat(&self, id: &str, address: &str, now_ms: u64) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO hubs (id, address, started_at, heartbeat_at) VALUES ($1, $2, $3, $3)
             ON CONFLICT (id) DO UPDATE SET address = excluded.address, heartbeat_at = excluded.heartbeat_at",
            params![id, address, now_ms],
        )
        .await
        .map(drop)
    }

    /// Takes or prolongs the lease of an edge. An edge that connects to another hub moves at once:
    /// it has one connection, and the newer one is the one it uses.
    pub async fn edge_lease(&self, edge: &NodeName, hub: &str, until_ms: u64) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO hub_edges (edge, hub, leased_until) VALUES ($1, $2, $3)
             ON CONFLICT (edge) DO UPDATE SET hub = excluded.hub, leased_until = excluded.leased_until",
            params![edge, hub, until_ms],
        )
        .await
        .map(drop)
    }

    /// Gives an edge up, unless another hub has it by now; says whether it was this hub's.
    pub async fn edge_release(&self, edge: &NodeName, hub: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM hub_edges WHERE edge = $1 AND hub = $2";
        Ok(self.execute(sql, params![edge, hub]).await? > 0)
    }

    /// Forgets hubs not heard of since `before_ms`, with their leases.
    pub async fn hub_prune(&self, before_ms: u64) -> Result<u64, StoreError> {
        self.execute("DELETE FROM hubs WHERE heartbeat_at < $1", params![before_ms]).await
    }
}
