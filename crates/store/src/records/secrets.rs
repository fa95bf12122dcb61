//! An app's secrets, sealed. A change makes the next version of the app's secrets; older versions
//! stay until pruned, so that a release can be returned to together with the secrets it ran with.

use std::collections::BTreeMap;

use atoll_keyring::Keyring;
use atoll_model::AppName;

use crate::value::{Row, params};
use crate::{ReadTx, StoreError, WriteTx};

/// A secret without its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Secret {
    pub name: String,
    /// Tells values apart without revealing them.
    pub digest: String,
    pub created_at_ms: u64,
    pub updated_at_ms: u64,
}

/// What to do with one secret.
#[derive(Clone)]
pub enum SecretChange {
    Set(Vec<u8>),
    Unset,
}

/// The newest row of each name up to a version, unless it says that the secret was deleted.
const CURRENT: &str = "SELECT s.* FROM secrets s
     WHERE s.app = $1 AND s.sealed IS NOT NULL AND s.version = (
         SELECT max(newest.version) FROM secrets newest
         WHERE newest.app = s.app AND newest.name = s.name AND newest.version <= $2)
     ORDER BY s.name";

fn secret(row: &Row) -> Result<Secret, StoreError> {
    Ok(Secret {
        name: row.text("name")?,
        digest: row.text_opt("digest")?.unwrap_or_default(),
        created_at_ms: row.unsigned("created_at")?,
        updated_at_ms: row.unsigned("updated_at")?,
    })
}

/// Binds a sealed value to its place, so that no row can stand in for another.
fn context(app_id: &str, name: &str, version: u64) -> String {
    format!("secret/{app_id}/{name}/{version}")
}

impl ReadTx {
    /// The secrets of an app by name, as of now.
    pub async fn secret_list(&self, app: &AppName) -> Result<Vec<Secret>, StoreError> {
        let app = self.app_fetch(app).await?;
        self.rows(CURRENT, params![&app.id, app.secrets_version]).await?.iter().map(secret).collect()
    }

    /// The values of an app's secrets as they were at `version`.
    pub async fn secret_values(
        &self,
        keyring: &Keyring,
        app: &AppName,
        version: u64,
    ) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let app_id = self.app_fetch(app).await?.id;
        let mut values = BTreeMap::new();
        for row in self.rows(CURRENT, params![&app_id, version]).await? {
            let name = row.text("name")?;
            let context = context(&app_id, &name, row.unsigned("version")?);
            let opened = keyring.open(&context, &row.bytes("sealed")?).map_err(|source| StoreError::Unseal {
                what: "secret",
                name: name.clone(),
                source: source.into(),
            })?;
            values.insert(name, opened.to_vec());
        }
        Ok(values)
    }
}

impl WriteTx {
    /// Makes all changes at once and returns the version they make. A deletion of what is not there
    /// is a change too: callers count on a version that grows.
    pub async fn secret_change(
        &self,
        keyring: &Keyring,
        app: &AppName,
        changes: &BTreeMap<String, SecretChange>,
        now_ms: u64,
    ) -> Result<u64, StoreError> {
        let app = self.app_fetch(app).await?;
        let version = app.secrets_version + 1;
        self.execute("UPDATE apps SET secrets_version = $2 WHERE id = $1", params![&app.id, version]).await?;
        for (name, change) in changes {
            let (sealed, digest) = match change {
                SecretChange::Unset => (None, None),
                SecretChange::Set(value) => {
                    let (sealed, digest) = seal(keyring, &app.id, name, version, value)?;
                    (Some(sealed), Some(digest))
                }
            };
            let first = self.first_created(&app.id, name).await?.unwrap_or(now_ms);
            self.execute(
                "INSERT INTO secrets (app, name, version, sealed, digest, created_at, updated_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
                params![&app.id, name, version, sealed, digest, first, now_ms],
            )
            .await?;
        }
        Ok(version)
    }

    /// When the secret that is there now was first set; `None` when it is not there.
    async fn first_created(&self, app_id: &str, name: &str) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT sealed, created_at FROM secrets WHERE app = $1 AND name = $2 ORDER BY version DESC LIMIT 1";
        match self.row_opt(sql, params![app_id, name]).await? {
            Some(row) if row.bytes_opt("sealed")?.is_some() => row.unsigned("created_at").map(Some),
            _ => Ok(None),
        }
    }

    /// Forgets values that no version from `oldest_needed` on can see; returns how many.
    pub async fn secret_prune(&self, app: &AppName, oldest_needed: u64) -> Result<u64, StoreError> {
        let app_id = self.app_fetch(app).await?.id;
        self.execute(
            "DELETE FROM secrets WHERE app = $1 AND EXISTS (
                 SELECT 1 FROM secrets newer WHERE newer.app = secrets.app AND newer.name = secrets.name
                 AND newer.version > secrets.version AND newer.version <= $2)",
            params![app_id, oldest_needed],
        )
        .await
    }

    /// Seals anew what an older root key sealed, at most `limit` values; returns how many. Call until
    /// it says 0, then the older key may be given up.
    pub async fn secret_reseal(&self, keyring: &Keyring, limit: u32) -> Result<u32, StoreError> {
        let mut resealed = 0;
        let sql = "SELECT * FROM secrets WHERE sealed IS NOT NULL ORDER BY app, name, version";
        for row in self.rows(sql, params![]).await? {
            let sealed = row.bytes("sealed")?;
            if resealed == limit || keyring.is_current(&sealed) {
                continue;
            }
            let (app_id, name, version) = (row.text("app")?, row.text("name")?, row.unsigned("version")?);
            let value = keyring
                .open(&context(&app_id, &name, version), &sealed)
                .map_err(|source| StoreError::Unseal { what: "secret", name: name.clone(), source: source.into() })?;
            let (sealed, _) = seal(keyring, &app_id, &name, version, &value)?;
            self.execute(
                "UPDATE secrets SET sealed = $4 WHERE app = $1 AND name = $2 AND version = $3",
                params![app_id, name, version, sealed],
            )
            .await?;
            resealed += 1;
        }
        Ok(resealed)
    }
}

/// The sealed value and its digest, 16 hex characters.
fn seal(
    keyring: &Keyring,
    app_id: &str,
    name: &str,
    version: u64,
    value: &[u8],
) -> Result<(Vec<u8>, String), StoreError> {
    let failed = |source| StoreError::Seal { what: "secret", name: name.to_owned(), source };
    let sealed = keyring.seal(&context(app_id, name, version), value).map_err(|error| failed(error.into()))?;
    let print = keyring.fingerprint(&format!("secret/{app_id}/{name}"), value).map_err(|error| failed(error.into()))?;
    Ok((sealed, hex::encode(&print[..8])))
}
