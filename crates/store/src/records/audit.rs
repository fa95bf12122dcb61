//! Who changed what, and how it ended. A record is begun before a change and ended after it, so that a
//! kill in between leaves one whose end is not known, never a change without a record.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{lowest_id, ordered_id};
use crate::value::{Row, json_text, params, stored_word};
use crate::{Page, PageRequest, ReadTx, StoreError, TokenKind, WriteTx};

stored_word! {
    AuditOutcome {
        /// It has begun: it goes on still, or nobody knows how it ended.
        Unknown = "unknown",
        Done = "done",
        /// The caller was told why not.
        Refused = "refused",
        /// The platform failed; parts may be done.
        Failed = "failed",
    }
}

/// A call that changes something, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditCall {
    /// Id of the token that asked.
    pub token: String,
    /// Its name.
    pub actor: String,
    pub role: TokenKind,
    /// Such as `Apps_create`.
    pub operation: String,
    /// Whose the target is.
    pub org: Option<String>,
    /// The app that it is about, though there may be none of this name.
    pub app: Option<String>,
    /// Such as `app=web ip=192.0.2.1`.
    pub target: String,
}

/// How a call ended.
#[derive(Clone, PartialEq, Debug)]
pub struct AuditEnd {
    pub outcome: AuditOutcome,
    /// A word for the reason of a refusal or failure.
    pub error: Option<String>,
    pub change: AuditChange,
}

/// What a small thing was and is; `None`: not there, or not kept.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct AuditChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct AuditEntry {
    /// A ULID: sorts by time.
    pub id: String,
    /// When it began.
    pub at_ms: u64,
    pub call: AuditCall,
    pub end: AuditEnd,
}

/// Which entries are wanted; all of these hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuditFilter {
    /// Not before this moment.
    pub since_ms: u64,
    pub org: Option<String>,
    pub app: Option<String>,
    /// A token's id or name.
    pub actor: Option<String>,
}

fn entry(row: &Row) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        id: row.text("id")?,
        at_ms: row.unsigned("at")?,
        call: AuditCall {
            token: row.text("token")?,
            actor: row.text("actor")?,
            role: row.parsed("role")?,
            operation: row.text("action")?,
            org: row.text_opt("org")?,
            app: row.text_opt("app")?,
            target: row.text("target")?,
        },
        end: AuditEnd {
            outcome: row.parsed("outcome")?,
            error: row.text_opt("error")?,
            change: row.json_opt("detail")?.unwrap_or_default(),
        },
    })
}

impl ReadTx {
    /// Entries, newest first.
    pub async fn audit_list(&self, filter: &AuditFilter, page: &PageRequest) -> Result<Page<AuditEntry>, StoreError> {
        let after = page.after("audit")?;
        // Every ULID sorts before this.
        let before = if after.is_empty() { "~".to_owned() } else { after };
        let sql = "SELECT * FROM audit WHERE id < $1 AND id >= $2 AND ($3 IS NULL OR org = $3)
                     AND ($4 IS NULL OR app = $4) AND ($5 IS NULL OR token = $5 OR actor = $5)
                   ORDER BY id DESC LIMIT $6";
        let params = params![
            before,
            lowest_id(filter.since_ms),
            filter.org.as_deref(),
            filter.app.as_deref(),
            filter.actor.as_deref(),
            page.fetch_limit(),
        ];
        let entries = self.rows(sql, params).await?.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(page.page("audit", entries, |entry: &AuditEntry| entry.id.clone()))
    }
}

impl WriteTx {
    /// Begins a record; answers its id. Its outcome is unknown until [`Self::audit_end`].
    pub async fn audit_begin(&self, call: &AuditCall, now_ms: u64) -> Result<String, StoreError> {
        let id = ordered_id(now_ms);
        self.execute(
            "INSERT INTO audit (id, at, token, actor, role, action, org, app, target, outcome)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            params![
                &id,
                now_ms,
                &call.token,
                &call.actor,
                call.role.as_str(),
                &call.operation,
                call.org.as_deref(),
                call.app.as_deref(),
                &call.target,
                AuditOutcome::Unknown.as_str(),
            ],
        )
        .await?;
        Ok(id)
    }

    /// Ends a record with how the call ended, and with what became known of it on the way.
    pub async fn audit_end(&self, id: &str, call: &AuditCall, end: &AuditEnd) -> Result<(), StoreError> {
        let is_kept = end.change != AuditChange::default();
        let detail = if is_kept { Some(json_text("audit", &end.change)?) } else { None };
        self.execute(
            "UPDATE audit SET token = $2, actor = $3, role = $4, org = $5, app = $6, target = $7, outcome = $8,
                 error = $9, detail = $10 WHERE id = $1",
            params![
                id,
                &call.token,
                &call.actor,
                call.role.as_str(),
                call.org.as_deref(),
                call.app.as_deref(),
                &call.target,
                end.outcome.as_str(),
                end.error.as_deref(),
                detail,
            ],
        )
        .await
        .map(drop)
    }

    /// Forgets records from before `before_ms`, and refusals beyond the newest `refusals`, so that whoever
    /// may do nothing cannot fill the disk; returns how many.
    pub async fn audit_prune(&self, before_ms: u64, refusals: u32) -> Result<u64, StoreError> {
        let old = self.execute("DELETE FROM audit WHERE id < $1", params![lowest_id(before_ms)]).await?;
        let sql = "DELETE FROM audit WHERE outcome = 'refused' AND id <=
                     (SELECT id FROM audit WHERE outcome = 'refused' ORDER BY id DESC LIMIT 1 OFFSET $1)";
        Ok(old + self.execute(sql, params![refusals]).await?)
    }
}
