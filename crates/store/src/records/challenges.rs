//! What public DNS answers to certificate authorities that want a host name proven. How much there may be, and
//! for how long, is decided by whoever calls.

use crate::value::{Row, params};
use crate::{ReadTx, StoreError, WriteTx};

/// One value at `_acme-challenge.<host>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// In lower case, without a dot at the end.
    pub host: String,
    pub value: String,
    pub ends_at_ms: u64,
    pub created_at_ms: u64,
}

fn challenge(row: &Row) -> Result<Challenge, StoreError> {
    Ok(Challenge {
        host: row.text("host")?,
        value: row.text("value")?,
        ends_at_ms: row.unsigned("ends_at")?,
        created_at_ms: row.unsigned("created_at")?,
    })
}

impl ReadTx {
    /// All challenges, by host and then by age.
    pub async fn challenges(&self) -> Result<Vec<Challenge>, StoreError> {
        let sql = "SELECT * FROM dns_challenges ORDER BY host, created_at, value";
        self.rows(sql, params![]).await?.iter().map(challenge).collect()
    }

    /// Those of one host name, by age.
    pub async fn challenges_of(&self, host: &str) -> Result<Vec<Challenge>, StoreError> {
        let sql = "SELECT * FROM dns_challenges WHERE host = $1 ORDER BY created_at, value";
        self.rows(sql, params![host]).await?.iter().map(challenge).collect()
    }

    /// How many host names other than this one have challenges.
    pub async fn challenged_beside(&self, host: &str) -> Result<u64, StoreError> {
        let sql = "SELECT count(DISTINCT host) AS found FROM dns_challenges WHERE host <> $1";
        self.row(sql, params![host]).await?.unsigned("found")
    }
}

impl WriteTx {
    /// Adds a value, or gives one that is there another end.
    pub async fn challenge_put(&self, new: &Challenge) -> Result<(), StoreError> {
        let sql = "INSERT INTO dns_challenges (host, value, ends_at, created_at) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (host, value) DO UPDATE SET ends_at = excluded.ends_at";
        self.execute(sql, params![&new.host, &new.value, new.ends_at_ms, new.created_at_ms]).await.map(drop)
    }

    /// Takes one value of a host name away, or all; says which they were.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub async fn challenge_remove(&self, host: &str, value: Option<&str>) -> Result<Vec<Challenge>, StoreError> {
        let mut removed = self.challenges_of(host).await?;
        removed.retain(|challenge| value.is_none_or(|value| challenge.value == value));
        if removed.is_empty() {
            return Err(StoreError::not_found("challenge", host));
        }
        for Challenge { value, .. } in &removed {
            let sql = "DELETE FROM dns_challenges WHERE host = $1 AND value = $2";
            self.execute(sql, params![host, value]).await?;
        }
        Ok(removed)
    }

    /// Forgets what ended by now; says of which host names.
    pub async fn challenges_end(&self, now_ms: u64) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT DISTINCT host FROM dns_challenges WHERE ends_at <= $1 ORDER BY host";
        let ended = self.rows(sql, params![now_ms]).await?.iter().map(|row| row.text("host")).collect();
        self.execute("DELETE FROM dns_challenges WHERE ends_at <= $1", params![now_ms]).await?;
        ended
    }
}
