//! Addresses by which apps are entered from outside, and the operator's pools that the public ones are
//! of. Which address an app gets is decided by whoever calls; here it can only be kept by one.

use std::net::IpAddr;

use atoll_model::address::NetworkId;
use atoll_model::{AppName, RowVersion};

use crate::value::{Row, params, stored_word};
use crate::{AppStatus, ReadTx, StoreError, WriteTx};

stored_word! {
    /// Whose an address is.
    AddressKind {
        /// Public, one app's alone.
        Dedicated = "dedicated",
        /// Public, and many apps' at once, which are told apart by name.
        Shared = "shared",
        /// Of a private network (Flycast), one app's alone.
        Private = "private",
    }
}

/// A prefix of the operator's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressPool {
    /// As `network/length`.
    pub prefix: String,
    /// Its addresses are many apps' at once.
    pub shared: bool,
    /// Routes of its single addresses may be announced where their apps are served.
    pub host_routes: bool,
    pub created_at_ms: u64,
}

/// An address of an app.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppAddress {
    pub address: IpAddr,
    pub app: AppName,
    pub kind: AddressKind,
    /// Announced by itself where the app is served.
    pub host_route: bool,
    /// Of a private one: from where it is entered.
    pub network: Option<NetworkId>,
    pub created_at_ms: u64,
}

/// An address that an app gave back, and that nobody may have yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestingAddress {
    pub address: IpAddr,
    /// Until then at least.
    pub rests_until_ms: u64,
    /// The app that had it. Earlier versions did not note it.
    pub app: Option<AppName>,
    /// The write of the app's catalogue row that is without the address; unknown until it is published.
    pub gone: Option<RowVersion>,
}

impl RestingAddress {
    /// Whether it need not rest longer, as nobody entered by it: time is all that counts then.
    pub fn is_over_by_time(&self, now_ms: u64) -> bool {
        self.app.is_none() && self.rests_until_ms <= now_ms
    }
}

fn resting(row: &Row) -> Result<RestingAddress, StoreError> {
    let gone = row.unsigned_opt("gone_epoch")?.zip(row.unsigned_opt("gone_sequence")?);
    Ok(RestingAddress {
        address: row.parsed("address")?,
        rests_until_ms: row.unsigned("rests_until")?,
        app: row.parsed_opt("app")?,
        gone: gone.map(|(epoch, sequence)| RowVersion { epoch, sequence }),
    })
}

fn pool(row: &Row) -> Result<AddressPool, StoreError> {
    Ok(AddressPool {
        prefix: row.text("prefix")?,
        shared: row.parsed::<AddressKind>("sharing")? == AddressKind::Shared,
        host_routes: row.flag("host_routes")?,
        created_at_ms: row.unsigned("created_at")?,
    })
}

fn address(row: &Row) -> Result<AppAddress, StoreError> {
    Ok(AppAddress {
        address: row.parsed("address")?,
        app: row.parsed("app_name")?,
        kind: row.parsed("kind")?,
        host_route: row.flag("host_route")?,
        network: row.small_opt("network")?.map(NetworkId),
        created_at_ms: row.unsigned("created_at")?,
    })
}

impl ReadTx {
    /// The operator's pools by prefix.
    pub async fn address_pools(&self) -> Result<Vec<AddressPool>, StoreError> {
        self.rows("SELECT * FROM address_pools ORDER BY prefix", params![]).await?.iter().map(pool).collect()
    }

    /// An app's addresses, in the order in which it got them.
    pub async fn addresses_of(&self, app: &AppName) -> Result<Vec<AppAddress>, StoreError> {
        let sql = "SELECT d.*, a.name AS app_name FROM app_addresses d JOIN apps a ON a.id = d.app
                   WHERE a.name = $1 ORDER BY d.created_at, d.address";
        self.rows(sql, params![app]).await?.iter().map(address).collect()
    }

    /// All apps' addresses; each app's in the order in which it got them.
    pub async fn addresses(&self) -> Result<Vec<AppAddress>, StoreError> {
        let sql = "SELECT d.*, a.name AS app_name FROM app_addresses d JOIN apps a ON a.id = d.app
                   ORDER BY a.name, d.created_at, d.address";
        self.rows(sql, params![]).await?.iter().map(address).collect()
    }

    /// Addresses that were given back and are not yet [rested](WriteTx::addresses_rested).
    pub async fn addresses_resting(&self) -> Result<Vec<RestingAddress>, StoreError> {
        let sql = "SELECT * FROM resting_addresses ORDER BY address";
        self.rows(sql, params![]).await?.iter().map(resting).collect()
    }
}

impl WriteTx {
    /// # Errors
    /// `Taken` if there is a pool of this very prefix. Others that it overlaps are the caller's to refuse.
    pub async fn address_pool_add(&self, new: &AddressPool) -> Result<(), StoreError> {
        let found = self.row_opt("SELECT prefix FROM address_pools WHERE prefix = $1", params![&new.prefix]).await?;
        if found.is_some() {
            return Err(StoreError::taken("address pool", &new.prefix, None));
        }
        let kind = if new.shared { AddressKind::Shared } else { AddressKind::Dedicated };
        let sql = "INSERT INTO address_pools (prefix, sharing, host_routes, created_at) VALUES ($1, $2, $3, $4)";
        self.execute(sql, params![&new.prefix, kind.as_str(), new.host_routes, new.created_at_ms]).await.map(drop)
    }

    /// Takes a pool out; says what it was. Addresses that apps have of it are the caller's to look for.
    pub async fn address_pool_remove(&self, prefix: &str) -> Result<AddressPool, StoreError> {
        let found = self.row_opt("SELECT * FROM address_pools WHERE prefix = $1", params![prefix]).await?;
        let removed = pool(&found.ok_or_else(|| StoreError::not_found("address pool", prefix))?)?;
        self.execute("DELETE FROM address_pools WHERE prefix = $1", params![prefix]).await?;
        Ok(removed)
    }

    /// Gives an address to an app.
    ///
    /// # Errors
    /// `Conflict` if another app has it, if it rests, or if the app is being deleted; `Taken` if it is
    /// this app's already.
    pub async fn address_bind(&self, new: &AppAddress) -> Result<(), StoreError> {
        let app = self.app_fetch(&new.app).await?;
        let text = new.address.to_string();
        let refused = |reason: String| Err(StoreError::conflict("address", &text, reason));
        if app.status == AppStatus::Deleting {
            return refused(format!("app {} is being deleted", app.name));
        }
        let sql = "SELECT d.*, a.name AS app_name FROM app_addresses d JOIN apps a ON a.id = d.app
                   WHERE d.address = $1";
        for row in self.rows(sql, params![&text]).await? {
            let held = address(&row)?;
            if held.app == new.app {
                return Err(StoreError::taken("address", &text, Some(app.id)));
            }
            if held.kind != AddressKind::Shared || new.kind != AddressKind::Shared {
                return refused(format!("it is in use by app {}", held.app));
            }
        }
        let sql = "SELECT address FROM resting_addresses WHERE address = $1";
        if self.row_opt(sql, params![&text]).await?.is_some() {
            return refused("it was given back, and rests".to_owned());
        }
        self.execute(
            "INSERT INTO app_addresses (address, app, kind, host_route, network, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
            params![&text, &app.id, new.kind.as_str(), new.host_route, new.network, new.created_at_ms,],
        )
        .await
        .map(drop)
    }

    /// Takes an address from an app; says what it was. Unless others share it, it rests, until `rests_until_ms`
    /// at least.
    pub async fn address_release(
        &self,
        app: &AppName,
        address: IpAddr,
        rests_until_ms: u64,
    ) -> Result<AppAddress, StoreError> {
        let held = self.addresses_of(app).await?.into_iter().find(|held| held.address == address);
        let released = held.ok_or_else(|| StoreError::not_found("address", address))?;
        let app = self.app_fetch(app).await?;
        if released.kind != AddressKind::Shared {
            let sql = "INSERT INTO resting_addresses (address, rests_until, app) VALUES ($1, $2, $3)";
            self.execute(sql, params![address.to_string(), rests_until_ms, &app.name]).await?;
        }
        let sql = "DELETE FROM app_addresses WHERE app = $1 AND address = $2";
        self.execute(sql, params![&app.id, address.to_string()]).await?;
        Ok(released)
    }

    /// Takes all its addresses from an app, those to leave under, too, as [`WriteTx::address_release`] takes one.
    pub async fn addresses_release(&self, app: &AppName, rests_until_ms: u64) -> Result<(), StoreError> {
        for held in self.addresses_of(app).await? {
            self.address_release(app, held.address, rests_until_ms).await?;
        }
        for held in self.egress_of(app).await? {
            self.egress_release(app, held.address, rests_until_ms).await?;
        }
        Ok(())
    }

    /// Notes the write of their app's catalogue row that is without these addresses.
    pub async fn addresses_gone(&self, addresses: &[IpAddr], version: RowVersion) -> Result<(), StoreError> {
        for address in addresses {
            let sql = "UPDATE resting_addresses SET gone_epoch = $2, gone_sequence = $3 WHERE address = $1";
            self.execute(sql, params![address.to_string(), version.epoch, version.sequence]).await?;
        }
        Ok(())
    }

    /// From now on these may be given out again.
    pub async fn addresses_rested(&self, addresses: &[IpAddr]) -> Result<(), StoreError> {
        for address in addresses {
            let sql = "DELETE FROM resting_addresses WHERE address = $1";
            self.execute(sql, params![address.to_string()]).await?;
        }
        Ok(())
    }
}
