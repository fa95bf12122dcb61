//! Users' devices: WireGuard peers that are in a private network of their organization. Which server lets
//! one in is decided by whoever calls.

use std::net::Ipv6Addr;

use atoll_model::address::NetworkId;
use atoll_model::{DeviceName, NodeName, OrgSlug};

use crate::value::{Row, params};
use crate::{ReadTx, StoreError, WriteTx};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewDevice {
    pub name: DeviceName,
    pub org: OrgSlug,
    pub network: NetworkId,
    /// 32 bytes in base64; no two devices have the same.
    pub public_key: String,
    pub gateway: NodeName,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    pub name: DeviceName,
    pub org: OrgSlug,
    pub network: NetworkId,
    pub network_name: String,
    /// Given to nobody else, ever.
    pub address: Ipv6Addr,
    pub public_key: String,
    /// The server that lets it in.
    pub gateway: NodeName,
    pub created_at_ms: u64,
}

fn device(row: &Row) -> Result<Device, StoreError> {
    Ok(Device {
        name: row.parsed("name")?,
        org: row.parsed("org")?,
        network: NetworkId(row.small("network")?),
        network_name: row.text("network_name")?,
        address: row.parsed("address")?,
        public_key: row.text("public_key")?,
        gateway: row.parsed("gateway")?,
        created_at_ms: row.unsigned("created_at")?,
    })
}

impl ReadTx {
    /// All devices, by address.
    pub async fn devices(&self) -> Result<Vec<Device>, StoreError> {
        let sql = "SELECT d.*, n.name AS network_name FROM devices d JOIN networks n ON n.id = d.network
                   ORDER BY d.address";
        self.rows(sql, params![]).await?.iter().map(device).collect()
    }

    /// An organization's devices, by name.
    pub async fn devices_of(&self, org: &OrgSlug) -> Result<Vec<Device>, StoreError> {
        let sql = "SELECT d.*, n.name AS network_name FROM devices d JOIN networks n ON n.id = d.network
                   WHERE d.org = $1 ORDER BY d.name";
        self.rows(sql, params![org]).await?.iter().map(device).collect()
    }

    pub async fn device_fetch(&self, org: &OrgSlug, name: &DeviceName) -> Result<Device, StoreError> {
        let sql = "SELECT d.*, n.name AS network_name FROM devices d JOIN networks n ON n.id = d.network
                   WHERE d.org = $1 AND d.name = $2";
        let row = self.row_opt(sql, params![org, name.as_str()]).await?;
        device(&row.ok_or_else(|| StoreError::not_found("device", name))?)
    }
}

impl WriteTx {
    /// Makes a device and gives it an address.
    ///
    /// # Errors
    /// `Taken` if the organization has a device of this name, or if any has this key.
    pub async fn device_create(&self, new: &NewDevice, now_ms: u64) -> Result<Device, StoreError> {
        let sql = "SELECT name FROM devices WHERE org = $1 AND name = $2";
        if self.row_opt(sql, params![&new.org, new.name.as_str()]).await?.is_some() {
            return Err(StoreError::taken("device", &new.name, None));
        }
        let sql = "SELECT name FROM devices WHERE public_key = $1";
        if self.row_opt(sql, params![&new.public_key]).await?.is_some() {
            return Err(StoreError::taken("device key", &new.public_key, None));
        }
        let address = self.address_allocate(new.network).await?;
        self.execute(
            "INSERT INTO devices (address, org, name, network, public_key, gateway, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            params![
                address.to_string(),
                &new.org,
                new.name.as_str(),
                new.network,
                &new.public_key,
                &new.gateway,
                now_ms
            ],
        )
        .await?;
        self.device_fetch(&new.org, &new.name).await
    }

    /// Says which device it was.
    pub async fn device_remove(&self, org: &OrgSlug, name: &DeviceName) -> Result<Device, StoreError> {
        let removed = self.device_fetch(org, name).await?;
        self.execute("DELETE FROM devices WHERE org = $1 AND name = $2", params![org, name.as_str()]).await?;
        Ok(removed)
    }
}
