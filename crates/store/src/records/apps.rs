//! Apps: the unit that has a name, a network, releases, secrets and machines.

use atoll_model::address::NetworkId;
use atoll_model::{AppName, OrgSlug, RegionCode};

use crate::ids::random_id;
use crate::value::{Row, json_text, params, stored_word};
use crate::{DEFAULT_NETWORK, Page, PageRequest, ReadTx, StoreError, WriteTx};

stored_word! {
    /// How far an app is, in the API's words.
    AppStatus {
        /// No release yet.
        Pending = "pending",
        Deployed = "deployed",
        Suspended = "suspended",
        /// Its machines are being destroyed; no new ones are recorded.
        Deleting = "deleting",
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct App {
    /// 16 lower-case letters and digits; unlike the name never given to another app.
    pub id: String,
    pub numeric_id: u64,
    pub name: AppName,
    pub org: OrgSlug,
    pub network: NetworkId,
    pub network_name: String,
    pub status: AppStatus,
    pub primary_region: Option<RegionCode>,
    /// Where deploys put machines; remembered from the last one that said so.
    pub regions: Vec<RegionCode>,
    /// Grows with every change of a secret; 0 before the first.
    pub secrets_version: u64,
    pub created_at_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewApp {
    pub name: AppName,
    pub org: OrgSlug,
    /// `None`: the organization's default network.
    pub network: Option<String>,
    pub primary_region: Option<RegionCode>,
    /// A second create with the same key and name answers the first app; with another name it is
    /// refused.
    pub idempotency_key: Option<String>,
}

const SELECT_BY_NAME: &str =
    "SELECT a.*, n.name AS network_name FROM apps a JOIN networks n ON n.id = a.network WHERE a.name = $1";

fn app(row: &Row) -> Result<App, StoreError> {
    Ok(App {
        id: row.text("id")?,
        numeric_id: row.unsigned("numeric_id")?,
        name: row.parsed("name")?,
        org: row.parsed("org")?,
        network: NetworkId(row.small("network")?),
        network_name: row.text("network_name")?,
        status: row.parsed("status")?,
        primary_region: row.parsed_opt("primary_region")?,
        regions: row.json("regions")?,
        secrets_version: row.unsigned("secrets_version")?,
        created_at_ms: row.unsigned("created_at")?,
    })
}

impl ReadTx {
    pub async fn app_fetch(&self, name: &AppName) -> Result<App, StoreError> {
        let row = self.row_opt(SELECT_BY_NAME, params![name]).await?;
        app(&row.ok_or_else(|| StoreError::not_found("app", name))?)
    }

    pub async fn app_fetch_by_id(&self, id: &str) -> Result<App, StoreError> {
        let sql = "SELECT a.*, n.name AS network_name FROM apps a JOIN networks n ON n.id = a.network WHERE a.id = $1";
        app(&self.row_opt(sql, params![id]).await?.ok_or_else(|| StoreError::not_found("app", id))?)
    }

    /// Apps by name; of one organization, or of all.
    pub async fn app_list(&self, org: Option<&OrgSlug>, page: &PageRequest) -> Result<Page<App>, StoreError> {
        let rows = self
            .rows(
                "SELECT a.*, n.name AS network_name FROM apps a JOIN networks n ON n.id = a.network
                 WHERE ($1 IS NULL OR a.org = $1) AND a.name > $2 ORDER BY a.name LIMIT $3",
                params![org, page.after("apps")?, page.fetch_limit()],
            )
            .await?;
        let apps = rows.iter().map(app).collect::<Result<_, _>>()?;
        Ok(page.page("apps", apps, |app: &App| app.name.to_string()))
    }

    /// How many apps there are; of one organization, or of all.
    pub async fn app_count(&self, org: Option<&OrgSlug>) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) AS apps FROM apps WHERE $1 IS NULL OR org = $1";
        self.row(sql, params![org]).await?.unsigned("apps")
    }
}

impl WriteTx {
    pub async fn app_create(&self, new: &NewApp, now_ms: u64) -> Result<App, StoreError> {
        self.organization_fetch(&new.org).await?;
        if let Some(key) = &new.idempotency_key {
            let sql = "SELECT name FROM apps WHERE org = $1 AND idempotency_key = $2";
            if let Some(row) = self.row_opt(sql, params![&new.org, key]).await? {
                let first: AppName = row.parsed("name")?;
                if first == new.name {
                    return self.app_fetch(&first).await;
                }
                let reason = format!("the idempotency key was used for app {first:?} before");
                return Err(StoreError::conflict("app", &new.name, reason));
            }
        }
        if let Some(row) = self.row_opt("SELECT id FROM apps WHERE name = $1", params![&new.name]).await? {
            return Err(StoreError::taken("app", &new.name, Some(row.text("id")?)));
        }
        let network_name = new.network.as_deref().filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NETWORK);
        let network = self.network_ensure(&new.org, network_name, now_ms).await?;
        let numeric_id = self.counter_next("app").await?;
        self.execute(
            "INSERT INTO apps (id, numeric_id, name, org, network, status, primary_region, regions,
                               idempotency_key, secrets_version, last_release, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, '[]', $8, 0, 0, $9)",
            params![
                random_id(),
                numeric_id,
                &new.name,
                &new.org,
                network.id,
                AppStatus::Pending.as_str(),
                new.primary_region,
                new.idempotency_key.as_deref(),
                now_ms,
            ],
        )
        .await?;
        self.app_fetch(&new.name).await
    }

    pub async fn app_set_status(&self, name: &AppName, status: AppStatus) -> Result<(), StoreError> {
        let sql = "UPDATE apps SET status = $2 WHERE name = $1";
        self.app_change(name, sql, params![name, status.as_str()]).await
    }

    /// Remembers where the app's machines belong.
    pub async fn app_set_regions(
        &self,
        name: &AppName,
        primary: Option<RegionCode>,
        regions: &[RegionCode],
    ) -> Result<(), StoreError> {
        let regions = json_text("regions", &regions)?;
        let sql = "UPDATE apps SET primary_region = $2, regions = $3 WHERE name = $1";
        self.app_change(name, sql, params![name, primary, regions]).await
    }

    /// Deletes an app with all that belongs to it. Refused while a machine of it is not destroyed:
    /// whoever deletes destroys them first, so that no worker is left with an orphan.
    pub async fn app_delete(&self, name: &AppName) -> Result<(), StoreError> {
        let app = self.app_fetch(name).await?;
        let sql = "SELECT count(*) AS live FROM machines WHERE app = $1 AND phase <> 'destroyed'";
        let live = self.row(sql, params![&app.id]).await?.unsigned("live")?;
        if live > 0 {
            return Err(StoreError::conflict("app", name, format!("{live} machines are not destroyed yet")));
        }
        self.execute("DELETE FROM apps WHERE id = $1", params![&app.id]).await.map(drop)
    }

    async fn app_change(
        &self,
        name: &AppName,
        sql: &'static str,
        params: Vec<crate::value::Param>,
    ) -> Result<(), StoreError> {
        match self.execute(sql, params).await? {
            0 => Err(StoreError::not_found("app", name)),
            _ => Ok(()),
        }
    }
}
