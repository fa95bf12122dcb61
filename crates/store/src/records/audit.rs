//! Who did what, when, to what, and how it ended. Entries are only ever added.

use crate::ids::ordered_id;
use crate::value::params;
use crate::{Page, PageRequest, ReadTx, StoreError, WriteTx};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewAuditEntry {
    /// The token or user that asked.
    pub actor: String,
    /// Such as `app.create`.
    pub action: String,
    /// Such as `app/my-app`.
    pub target: String,
    /// `ok`, or why not.
    pub outcome: String,
    pub detail: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditEntry {
    /// A ULID: sorts by time.
    pub id: String,
    pub at_ms: u64,
    pub entry: NewAuditEntry,
}

impl ReadTx {
    /// Entries, newest first.
    pub async fn audit_list(&self, page: &PageRequest) -> Result<Page<AuditEntry>, StoreError> {
        let after = page.after("audit")?;
        // Every ULID sorts before this.
        let before = if after.is_empty() { "~".to_owned() } else { after };
        let sql = "SELECT * FROM audit WHERE id < $1 ORDER BY id DESC LIMIT $2";
        let rows = self.rows(sql, params![before, page.fetch_limit()]).await?;
        let entries = rows
            .iter()
            .map(|row| {
                Ok(AuditEntry {
                    id: row.text("id")?,
                    at_ms: row.unsigned("at")?,
                    entry: NewAuditEntry {
                        actor: row.text("actor")?,
                        action: row.text("action")?,
                        target: row.text("target")?,
                        outcome: row.text("outcome")?,
                        detail: row.text_opt("detail")?,
                    },
                })
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(page.page("audit", entries, |entry: &AuditEntry| entry.id.clone()))
    }
}

impl WriteTx {
    pub async fn audit_append(&self, entry: &NewAuditEntry, now_ms: u64) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO audit (id, at, actor, action, target, outcome, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            params![
                ordered_id(now_ms),
                now_ms,
                &entry.actor,
                &entry.action,
                &entry.target,
                &entry.outcome,
                entry.detail.as_deref(),
            ],
        )
        .await
        .map(drop)
    }

    /// Forgets entries older than `before_ms`; returns how many.
    pub async fn audit_prune(&self, before_ms: u64) -> Result<u64, StoreError> {
        self.execute("DELETE FROM audit WHERE at < $1", params![before_ms]).await
    }
}
