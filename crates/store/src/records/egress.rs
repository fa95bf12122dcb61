//! Addresses under which apps' machines leave for the internet. Which one an app gets is decided by whoever
//! calls; here it can only be kept by one. Every change leaves the app unsettled, as a changed policy does
//! ([`super::policies`]).

use std::net::IpAddr;

use atoll_model::{AppName, RegionCode};

use crate::value::{Row, params};
use crate::{AppStatus, ReadTx, StoreError, WriteTx};

/// An address of an app to leave under, from whichever server it leads back to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EgressAddress {
    pub address: IpAddr,
    pub app: AppName,
    /// For which it was asked.
    pub region: RegionCode,
    pub created_at_ms: u64,
}

fn egress(row: &Row) -> Result<EgressAddress, StoreError> {
    Ok(EgressAddress {
        address: row.parsed("address")?,
        app: row.parsed("app_name")?,
        region: row.parsed("region")?,
        created_at_ms: row.unsigned("created_at")?,
    })
}

impl ReadTx {
    /// An app's, in the order in which it got them.
    pub async fn egress_of(&self, app: &AppName) -> Result<Vec<EgressAddress>, StoreError> {
        let sql = "SELECT e.*, a.name AS app_name FROM egress_addresses e JOIN apps a ON a.id = e.app
                   WHERE a.name = $1 ORDER BY e.created_at, e.address";
        self.rows(sql, params![app]).await?.iter().map(egress).collect()
    }

    /// All apps'; each app's in the order in which it got them.
    pub async fn egress_addresses(&self) -> Result<Vec<EgressAddress>, StoreError> {
        let sql = "SELECT e.*, a.name AS app_name FROM egress_addresses e JOIN apps a ON a.id = e.app
                   ORDER BY a.name, e.created_at, e.address";
        self.rows(sql, params![]).await?.iter().map(egress).collect()
    }
}

impl WriteTx {
    /// Gives an address to an app.
    ///
    /// # Errors
    /// `Conflict` if an app has it, if it rests, or if the app is being deleted.
    pub async fn egress_bind(&self, new: &EgressAddress) -> Result<(), StoreError> {
        let app = self.app_fetch(&new.app).await?;
        let text = new.address.to_string();
        let refused = |reason: String| Err(StoreError::conflict("egress address", &text, reason));
        if app.status == AppStatus::Deleting {
            return refused(format!("app {} is being deleted", app.name));
        }
        if let Some(held) = self.egress_addresses().await?.into_iter().find(|held| held.address == new.address) {
            return refused(format!("it is in use by app {}", held.app));
        }
        if let Some(resting) = self.addresses_resting().await?.into_iter().find(|other| other.address == new.address) {
            if !resting.is_over_by_time(new.created_at_ms) {
                return refused("it was given back, and rests".to_owned());
            }
            self.addresses_rested(&[new.address]).await?;
        }
        let sql = "INSERT INTO egress_addresses (address, app, region, created_at) VALUES ($1, $2, $3, $4)";
        self.execute(sql, params![&text, &app.id, new.region, new.created_at_ms]).await?;
        self.policies_unsettle(&new.app).await
    }

    /// Takes an address from an app; says what it was. Nobody gets it before `rests_until_ms`.
    pub async fn egress_release(
        &self,
        app: &AppName,
        address: IpAddr,
        rests_until_ms: u64,
    ) -> Result<EgressAddress, StoreError> {
        let held = self.egress_of(app).await?.into_iter().find(|held| held.address == address);
        let released = held.ok_or_else(|| StoreError::not_found("egress address", address))?;
        let sql = "INSERT INTO resting_addresses (address, rests_until) VALUES ($1, $2)
                   ON CONFLICT (address) DO UPDATE SET rests_until = excluded.rests_until";
        self.execute(sql, params![address.to_string(), rests_until_ms]).await?;
        self.execute("DELETE FROM egress_addresses WHERE address = $1", params![address.to_string()]).await?;
        self.policies_unsettle(app).await?;
        Ok(released)
    }

    /// A server has other addresses than before: apps that have any of these are not settled.
    pub async fn egress_unsettle(&self, addresses: &[IpAddr]) -> Result<(), StoreError> {
        for held in self.egress_addresses().await? {
            if addresses.contains(&held.address) {
                self.policies_unsettle(&held.app).await?;
            }
        }
        Ok(())
    }
}
