//! What the platform knows about itself, by name: instance id, CA metadata. Small values only.

use crate::value::params;
use crate::{ReadTx, StoreError, WriteTx};

impl ReadTx {
    pub async fn setting_fetch(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.row_opt("SELECT value FROM settings WHERE name = $1", params![name]).await?;
        row.map(|row| row.bytes("value")).transpose()
    }
}

impl WriteTx {
    pub async fn setting_set(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO settings (name, value) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            params![name, value],
        )
        .await
        .map(drop)
    }

    /// Keeps the value that is there, else sets this one; returns what counts. Of several processes
    /// that start at once, all get the same answer.
    pub async fn setting_ensure(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        if let Some(present) = self.setting_fetch(name).await? {
            return Ok(present);
        }
        self.setting_set(name, value).await?;
        Ok(value.to_vec())
    }

    /// The next number of a counter, from 1. Never gives a number twice, also after deletions.
    pub(crate) async fn counter_next(&self, name: &str) -> Result<u64, StoreError> {
        self.counter_skip(name, 1).await?;
        self.row("SELECT value FROM counters WHERE name = $1", params![name]).await?.unsigned("value")
    }

    /// Leaves out the next numbers of a counter.
    pub(crate) async fn counter_skip(&self, name: &str, count: u64) -> Result<(), StoreError> {
        let sql = "INSERT INTO counters (name, value) VALUES ($1, $2)
                   ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value";
        self.execute(sql, params![name, count]).await.map(drop)
    }
}
