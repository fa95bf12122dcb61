//! Network policies of apps. A name is given once in its app. Every change leaves the app unsettled until
//! its machines are known to be held to it.

use atoll_model::AppName;
use atoll_model::policy::NetworkPolicy;

use crate::ids::random_id;
use crate::value::{Row, json_text, params};
use crate::{ReadTx, StoreError, WriteTx};

/// A policy that is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyRecord {
    pub id: String,
    pub policy: NetworkPolicy,
}

/// An app whose machines may not be held to its policies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnsettledPolicies {
    pub app: AppName,
    /// Of the latest change.
    pub mark: String,
}

fn policy(row: &Row) -> Result<PolicyRecord, StoreError> {
    Ok(PolicyRecord { id: row.text("id")?, policy: row.json("body")? })
}

impl ReadTx {
    /// An app's policies, oldest first.
    pub async fn policy_list(&self, app: &AppName) -> Result<Vec<PolicyRecord>, StoreError> {
        let sql = "SELECT p.* FROM network_policies p JOIN apps a ON a.id = p.app WHERE a.name = $1
                   ORDER BY p.created_at, p.id";
        self.rows(sql, params![app]).await?.iter().map(policy).collect()
    }

    pub async fn policies_unsettled(&self) -> Result<Vec<UnsettledPolicies>, StoreError> {
        let sql = "SELECT a.name, u.mark FROM unsettled_policies u JOIN apps a ON a.id = u.app ORDER BY a.name";
        let unsettled = |row: &Row| Ok(UnsettledPolicies { app: row.parsed("name")?, mark: row.text("mark")? });
        self.rows(sql, params![]).await?.iter().map(unsettled).collect()
    }
}

impl WriteTx {
    /// A new policy, or, with the id of one of the app's, what it says from now on.
    pub async fn policy_put(
        &self,
        app: &AppName,
        id: Option<&str>,
        policy: &NetworkPolicy,
        now_ms: u64,
    ) -> Result<PolicyRecord, StoreError> {
        let others = self.policy_list(app).await?;
        let is_this = |other: &&PolicyRecord| Some(other.id.as_str()) == id;
        if let Some(id) = id
            && !others.iter().any(|other| is_this(&other))
        {
            return Err(StoreError::not_found("network policy", id));
        }
        if others.iter().any(|other| !is_this(&other) && other.policy.name == policy.name) {
            return Err(StoreError::conflict("network policy", &policy.name, "the app has another one of this name"));
        }
        self.policies_unsettle(app).await?;
        let app = self.app_fetch(app).await?.id;
        let id = id.map_or_else(random_id, str::to_owned);
        self.execute(
            "INSERT INTO network_policies (id, app, name, body, created_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, body = excluded.body",
            params![&id, app, &policy.name, json_text("network policy", policy)?, now_ms],
        )
        .await?;
        Ok(PolicyRecord { id, policy: policy.clone() })
    }

    /// Says which policy it was.
    pub async fn policy_delete(&self, app: &AppName, id: &str) -> Result<PolicyRecord, StoreError> {
        self.policies_unsettle(app).await?;
        let deleted = self.policy_list(app).await?.into_iter().find(|policy| policy.id == id);
        let deleted = deleted.ok_or_else(|| StoreError::not_found("network policy", id))?;
        let app = self.app_fetch(app).await?.id;
        self.execute("DELETE FROM network_policies WHERE app = $1 AND id = $2", params![app, id]).await?;
        Ok(deleted)
    }

    /// Some of the app's machines may be held to something else than its policies.
    pub async fn policies_unsettle(&self, app: &AppName) -> Result<(), StoreError> {
        let app = self.app_fetch(app).await?.id;
        let sql = "INSERT INTO unsettled_policies (app, mark) VALUES ($1, $2)
                   ON CONFLICT (app) DO UPDATE SET mark = excluded.mark";
        self.execute(sql, params![app, random_id()]).await.map(drop)
    }

    /// [`Self::policies_unsettle`] for every app.
    pub async fn policies_unsettle_all(&self) -> Result<(), StoreError> {
        // SQLite reads ON as a join's where no WHERE ends the SELECT.
        let sql = "INSERT INTO unsettled_policies (app, mark) SELECT id, $1 FROM apps WHERE true
                   ON CONFLICT (app) DO UPDATE SET mark = excluded.mark";
        self.execute(sql, params![random_id()]).await.map(drop)
    }

    /// All machines were found to be held to the policies as of this mark.
    pub async fn policies_settle(&self, unsettled: &UnsettledPolicies) -> Result<(), StoreError> {
        let sql = "DELETE FROM unsettled_policies WHERE app = (SELECT id FROM apps WHERE name = $1) AND mark = $2";
        self.execute(sql, params![&unsettled.app, &unsettled.mark]).await.map(drop)
    }
}
