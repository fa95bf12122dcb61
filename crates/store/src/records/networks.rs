//! Private networks and the addresses of the machines on them.

use std::net::Ipv6Addr;

use atoll_model::OrgSlug;
use atoll_model::address::{NetworkId, machine_address};

use crate::value::{Row, params};
use crate::{ReadTx, StoreError, WriteTx};

/// The network of apps that name none.
pub const DEFAULT_NETWORK: &str = "default";

/// More than anybody makes between two backups; ids and addresses last for tens of thousands of restores.
const NETWORKS_SKIPPED: u64 = 1 << 16;
const ADDRESSES_SKIPPED: u64 = 1 << 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Network {
    /// Permanent for its organization and name.
    pub id: NetworkId,
    pub org: OrgSlug,
    pub name: String,
    pub created_at_ms: u64,
}

fn network(row: &Row) -> Result<Network, StoreError> {
    Ok(Network {
        id: NetworkId(row.small("id")?),
        org: row.parsed("org")?,
        name: row.text("name")?,
        created_at_ms: row.unsigned("created_at")?,
    })
}

/// A letter, then letters, digits and dashes, as users know it.
fn is_network_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

impl ReadTx {
    pub async fn network_fetch(&self, id: NetworkId) -> Result<Network, StoreError> {
        let row = self.row_opt("SELECT * FROM networks WHERE id = $1", params![id]).await?;
        network(&row.ok_or_else(|| StoreError::not_found("network", id))?)
    }

    /// The networks of an organization by name.
    pub async fn network_list(&self, org: &OrgSlug) -> Result<Vec<Network>, StoreError> {
        let sql = "SELECT * FROM networks WHERE org = $1 ORDER BY name";
        self.rows(sql, params![org]).await?.iter().map(network).collect()
    }
}

impl WriteTx {
    /// The organization's network of this name, made on first use. Its id never changes and is never
    /// given to another network.
    pub async fn network_ensure(&self, org: &OrgSlug, name: &str, now_ms: u64) -> Result<Network, StoreError> {
        if !is_network_name(name) {
            let shown: String = name.chars().take(80).collect();
            let reason = "a network name begins with a letter and has letters, digits and '-' only, at most 63";
            return Err(StoreError::invalid("network", shown, reason));
        }
        let sql = "SELECT * FROM networks WHERE org = $1 AND name = $2";
        if let Some(row) = self.row_opt(sql, params![org, name]).await? {
            return network(&row);
        }
        let id = u32::try_from(self.counter_next("network").await?)
            .map(NetworkId)
            .map_err(|_| StoreError::conflict("network", name, "all network ids are used"))?;
        self.execute(
            "INSERT INTO networks (id, org, name, next_address, created_at) VALUES ($1, $2, $3, 1, $4)",
            params![id, org, name, now_ms],
        )
        .await?;
        self.network_fetch(id).await
    }

    /// After a restore: the next networks and addresses are beyond all that were given out since the backup.
    /// Machines and apps of which these records know nothing still have theirs.
    pub async fn networks_skip_given(&self) -> Result<(), StoreError> {
        self.counter_skip("network", NETWORKS_SKIPPED).await?;
        let sql = "UPDATE networks SET next_address = next_address + $1";
        self.execute(sql, params![ADDRESSES_SKIPPED]).await.map(drop)
    }

    /// An address for a new machine, for its life. The 64 free bits count up, so no address of a
    /// network is ever given out twice.
    pub async fn address_allocate(&self, id: NetworkId) -> Result<Ipv6Addr, StoreError> {
        let changed =
            self.execute("UPDATE networks SET next_address = next_address + 1 WHERE id = $1", params![id]).await?;
        if changed == 0 {
            return Err(StoreError::not_found("network", id));
        }
        let next =
            self.row("SELECT next_address FROM networks WHERE id = $1", params![id]).await?.unsigned("next_address")?;
        let number = next - 1;
        Ok(machine_address(id, (number >> 32) as u32, number as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_names_begin_with_a_letter() {
        for good in ["default", "a", "Team-7"] {
            assert!(is_network_name(good), "{good} was refused");
        }
        for bad in ["", "7a", "-a", "a_b", "a b", &"x".repeat(64)] {
            assert!(!is_network_name(bad), "{bad} was accepted");
        }
    }
}
