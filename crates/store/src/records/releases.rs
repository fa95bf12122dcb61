//! Releases: what an app was asked to be, numbered per app. A release never changes but for its
//! status; going back to one takes image, configuration and secrets' version together.

use std::collections::BTreeMap;

use atoll_model::{AppName, MachineConfig};

use crate::ids::random_id;
use crate::value::{Row, json_text, params, stored_word};
use crate::{ReadTx, StoreError, WriteTx};

stored_word! {
    ReleaseStatus {
        /// Recorded; nothing was done for it yet.
        Pending = "pending",
        /// Being put in place; at most one release of an app is.
        Running = "running",
        Complete = "complete",
        Failed = "failed",
        /// A newer one came before this one began or ended.
        Superseded = "superseded",
    }
}

impl ReleaseStatus {
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Superseded)
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct NewRelease {
    pub image_ref: String,
    pub image_digest: String,
    /// The fly.toml as the user wrote it; empty when there was none.
    pub manifest: String,
    /// The manifest as the platform understands it.
    pub definition: serde_json::Value,
    /// Each process group's machine configuration.
    pub machine_configs: BTreeMap<String, MachineConfig>,
    pub secrets_version: u64,
    pub strategy: String,
    pub description: String,
    pub created_by: String,
    /// What was asked for beside the manifest, for the executor; the store does not read it.
    pub asked: serde_json::Value,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Release {
    /// 16 lower-case letters and digits.
    pub id: String,
    pub app: AppName,
    /// 1 for an app's first release.
    pub version: u64,
    pub status: ReleaseStatus,
    pub content: NewRelease,
    pub created_at_ms: u64,
    pub updated_at_ms: u64,
}

fn release(row: &Row) -> Result<Release, StoreError> {
    Ok(Release {
        id: row.text("id")?,
        app: row.parsed("app_name")?,
        version: row.unsigned("version")?,
        status: row.parsed("status")?,
        content: NewRelease {
            image_ref: row.text("image_ref")?,
            image_digest: row.text("image_digest")?,
            manifest: row.text("manifest")?,
            definition: row.json("definition")?,
            machine_configs: row.json("machine_configs")?,
            secrets_version: row.unsigned("secrets_version")?,
            strategy: row.text("strategy")?,
            description: row.text("description")?,
            created_by: row.text("created_by")?,
            asked: row.json("asked")?,
        },
        created_at_ms: row.unsigned("created_at")?,
        updated_at_ms: row.unsigned("updated_at")?,
    })
}

impl ReadTx {
    pub async fn release_fetch(&self, id: &str) -> Result<Release, StoreError> {
        let sql = "SELECT r.*, a.name AS app_name FROM releases r JOIN apps a ON a.id = r.app WHERE r.id = $1";
        release(&self.row_opt(sql, params![id]).await?.ok_or_else(|| StoreError::not_found("release", id))?)
    }

    pub async fn release_fetch_version(&self, app: &AppName, version: u64) -> Result<Release, StoreError> {
        let sql = "SELECT r.*, a.name AS app_name FROM releases r JOIN apps a ON a.id = r.app
                   WHERE a.name = $1 AND r.version = $2";
        let row = self.row_opt(sql, params![app, version]).await?;
        release(&row.ok_or_else(|| StoreError::not_found("release", format!("{app} v{version}")))?)
    }

    /// The newest release that was put in place; what a failed one returns to.
    pub async fn release_last_complete(&self, app: &AppName) -> Result<Option<Release>, StoreError> {
        let sql = "SELECT r.*, a.name AS app_name FROM releases r JOIN apps a ON a.id = r.app
                   WHERE a.name = $1 AND r.status = 'complete' ORDER BY r.version DESC LIMIT 1";
        self.row_opt(sql, params![app]).await?.map(|row| release(&row)).transpose()
    }

    /// An app's releases, newest first.
    pub async fn release_list(&self, app: &AppName, limit: u32) -> Result<Vec<Release>, StoreError> {
        let sql = "SELECT r.*, a.name AS app_name FROM releases r JOIN apps a ON a.id = r.app
                   WHERE a.name = $1 ORDER BY r.version DESC LIMIT $2";
        self.rows(sql, params![app, limit]).await?.iter().map(release).collect()
    }
}

impl WriteTx {
    /// Records the next release of an app, pending, with an empty deploy. Pending ones before it are
    /// superseded: only the newest wish counts.
    pub async fn release_create(&self, app: &AppName, new: &NewRelease, now_ms: u64) -> Result<Release, StoreError> {
        let app = self.app_fetch(app).await?;
        self.execute("UPDATE apps SET last_release = last_release + 1 WHERE id = $1", params![&app.id]).await?;
        let row = self.row("SELECT last_release FROM apps WHERE id = $1", params![&app.id]).await?;
        let version = row.unsigned("last_release")?;
        self.execute(
            "UPDATE deploys SET done = 1 WHERE release IN
                 (SELECT id FROM releases WHERE app = $1 AND status = 'pending')",
            params![&app.id],
        )
        .await?;
        self.execute(
            "UPDATE releases SET status = 'superseded', updated_at = $2 WHERE app = $1 AND status = 'pending'",
            params![&app.id, now_ms],
        )
        .await?;
        let id = random_id();
        self.execute(
            "INSERT INTO releases (id, app, version, status, image_ref, image_digest, manifest, definition,
                 machine_configs, secrets_version, strategy, description, created_by, asked,
                 created_at, updated_at)
             VALUES ($1, $2, $3, 'pending', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)",
            params![
                &id,
                &app.id,
                version,
                &new.image_ref,
                &new.image_digest,
                &new.manifest,
                json_text("definition", &new.definition)?,
                json_text("machine_configs", &new.machine_configs)?,
                new.secrets_version,
                &new.strategy,
                &new.description,
                &new.created_by,
                json_text("asked", &new.asked)?,
                now_ms,
            ],
        )
        .await?;
        self.execute(
            "INSERT INTO deploys (release, generation, fence, leased_until, last_event, done)
             VALUES ($1, 0, 0, 0, 0, 0)",
            params![&id],
        )
        .await?;
        self.release_fetch(&id).await
    }

    /// Begins a release. Refused while another one of the app is running or a machine of the app is
    /// on its way to another node, or when this one is over.
    pub async fn release_begin(&self, id: &str, now_ms: u64) -> Result<Release, StoreError> {
        let known = self.release_fetch(id).await?;
        match known.status {
            ReleaseStatus::Running => return Ok(known),
            ReleaseStatus::Pending => {}
            status => return Err(StoreError::conflict("release", id, format!("it is {status}"))),
        }
        let sql = "SELECT r.id FROM releases r JOIN apps a ON a.id = r.app WHERE a.name = $1 AND r.status = 'running'";
        if let Some(row) = self.row_opt(sql, params![&known.app]).await? {
            let reason = format!("release {} of the app is still running", row.text("id")?);
            return Err(StoreError::conflict("release", id, reason));
        }
        self.moves_forbid(id, &known.app).await?;
        self.release_set_status(id, ReleaseStatus::Running, now_ms).await?;
        self.release_fetch(id).await
    }

    /// Ends a release; ending it twice the same way is no error. Its deploy is done with it.
    pub async fn release_end(&self, id: &str, status: ReleaseStatus, now_ms: u64) -> Result<(), StoreError> {
        let known = self.release_fetch(id).await?.status;
        if known == status {
            return Ok(());
        }
        if known.is_final() || !status.is_final() {
            return Err(StoreError::conflict("release", id, format!("it is {known} and cannot become {status}")));
        }
        self.release_set_status(id, status, now_ms).await?;
        self.execute("UPDATE deploys SET done = 1 WHERE release = $1", params![id]).await.map(drop)
    }

    async fn release_set_status(&self, id: &str, status: ReleaseStatus, now_ms: u64) -> Result<(), StoreError> {
        let sql = "UPDATE releases SET status = $2, updated_at = $3 WHERE id = $1";
        self.execute(sql, params![id, status.as_str(), now_ms]).await.map(drop)
    }
}
