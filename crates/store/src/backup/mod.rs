//! Copies of all records in one portable file, which either engine reads: zstd-compressed lines of
//! JSON, the first saying what it is, the last how many rows there are and their checksum. Secrets
//! stay sealed: without the root key the file tells nothing of them.

mod file;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::migrate::SCHEMA_VERSION;
use crate::value::{Param, param_from_json, params};
use crate::{ReadTx, Store, StoreError, WriteTx};
use file::Line;

/// Lines on their way between the database and the file.
const QUEUE: usize = 256;

struct Table {
    name: &'static str,
    select: &'static str,
    count: &'static str,
}

macro_rules! tables {
    ($($name:literal by $key:literal),* $(,)?) => {
        &[$(Table {
            name: $name,
            select: concat!("SELECT * FROM ", $name, " ORDER BY ", $key),
            count: concat!("SELECT count(*) AS found FROM ", $name),
        }),*]
    };
}

/// Every table of the records, those that others refer to first.
const TABLES: &[Table] = tables![
    "settings" by "name",
    "counters" by "name",
    "organizations" by "slug",
    "networks" by "id",
    "apps" by "id",
    "address_pools" by "prefix",
    "app_addresses" by "address, app",
    "resting_addresses" by "address",
    "egress_addresses" by "address",
    "machines" by "id",
    "moves" by "machine",
    "releases" by "id",
    "deploys" by "release",
    "deploy_outcomes" by "release, generation, step",
    "deploy_events" by "release, number",
    "secrets" by "app, name, version",
    "network_policies" by "id",
    "unsettled_policies" by "app",
    "scales" by "app, process_group, region",
    "tokens" by "id",
    "nodes" by "name",
    "devices" by "address",
    "dns_challenges" by "host, value",
    "audit" by "id",
    "hubs" by "id",
    "hub_edges" by "edge",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupSummary {
    pub rows: u64,
    /// The schema the rows have.
    pub schema: u32,
    /// When the backup was made.
    pub created_at_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot write the backup {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot read the backup {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a whole backup: {reason} (line {line})")]
    Damaged { path: PathBuf, line: u64, reason: String },
    #[error("the backup {path} has schema {found}, this program knows up to {SCHEMA_VERSION}")]
    Newer { path: PathBuf, found: u32 },
    #[error("the records are not empty: {table} has {rows} rows; a backup is restored into new records only")]
    NotEmpty { table: &'static str, rows: u64 },
    #[error("the thread that reads or writes the backup ended early")]
    Interrupted,
    #[error("the records failed while being copied")]
    Store {
        #[from]
        source: StoreError,
    },
}

impl Store {
    /// Copies all records, as they are at one moment, while others go on writing. The file appears
    /// under its name only when it is whole.
    pub async fn backup(&self, path: &Path, now_ms: u64) -> Result<BackupSummary, BackupError> {
        self.read(|tx| async move {
            let (lines, received) = mpsc::channel(QUEUE);
            let target = path.to_owned();
            let writer = tokio::task::spawn_blocking(move || file::write(&target, now_ms, received));
            let copied = copy(&tx, &lines).await;
            drop(lines);
            // Awaited in any case: two attempts must not write the same file at once.
            let written = writer.await.map_err(|_| BackupError::Interrupted)?;
            copied.map_err(BackupError::from).and(written)
        })
        .await
    }

    /// Fills new records from a backup, wholly or not at all.
    pub async fn restore(&self, path: &Path) -> Result<BackupSummary, BackupError> {
        let source = path.to_owned();
        // Nothing is begun with a file that does not check out.
        let summary =
            tokio::task::spawn_blocking(move || file::check(&source)).await.map_err(|_| BackupError::Interrupted)??;
        self.write(|tx| async move {
            for table in TABLES {
                let rows = tx.row(table.count, params![]).await?.unsigned("found")?;
                if rows > 0 {
                    return Err(BackupError::NotEmpty { table: table.name, rows });
                }
            }
            let (lines, mut received) = mpsc::channel(QUEUE);
            let source = path.to_owned();
            let reader =
                tokio::task::spawn_blocking(move || file::read(&source, |line| lines.blocking_send(line).is_ok()));
            while let Some(line) = received.recv().await {
                insert(&tx, path, line).await?;
            }
            reader.await.map_err(|_| BackupError::Interrupted)?.map(drop)
        })
        .await?;
        Ok(summary)
    }
}

/// Sends every row and then the end. A writer that is gone stops it without an error: the writer
/// knows the reason.
async fn copy(tx: &ReadTx, lines: &mpsc::Sender<Option<Line>>) -> Result<(), StoreError> {
    for (number, table) in TABLES.iter().enumerate() {
        let (rows, mut row) = mpsc::channel(QUEUE);
        let forward = async move {
            while let Some(columns) = row.recv().await {
                if lines.send(Some(Line { table: number, columns })).await.is_err() {
                    break;
                }
            }
        };
        let pour = async move { tx.pour(table.select, |row| row.to_json(), &rows).await };
        let (poured, ()) = tokio::join!(pour, forward);
        if !poured? {
            return Ok(());
        }
    }
    lines.send(None).await.ok();
    Ok(())
}

async fn insert(tx: &WriteTx, path: &Path, line: Line) -> Result<(), BackupError> {
    let Some(table) = TABLES.get(line.table) else { return Ok(()) };
    let (sql, params) = insert_statement(table.name, &line.columns).ok_or_else(|| BackupError::Damaged {
        path: path.to_owned(),
        line: 0,
        reason: format!("a row of {} has a column that is none", table.name),
    })?;
    tx.execute_made("INSERT INTO a restored table", sql, params).await?;
    Ok(())
}

/// Column names come from a file: anything but a plain name is refused before it meets SQL.
fn insert_statement(table: &str, columns: &Map<String, Value>) -> Option<(String, Vec<Param>)> {
    let plain = |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if columns.is_empty() || !columns.keys().all(plain) {
        return None;
    }
    let names: Vec<&str> = columns.keys().map(String::as_str).collect();
    let places: Vec<String> = (1..=names.len()).map(|number| format!("${number}")).collect();
    let params = columns.values().map(param_from_json).collect::<Option<Vec<_>>>()?;
    Some((format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), places.join(", ")), params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_is_forgotten() {
        let mut made: Vec<String> = crate::migrate::tables();
        let mut copied: Vec<String> = TABLES.iter().map(|table| table.name.to_owned()).collect();
        made.sort();
        copied.sort();
        assert_eq!(made, copied);
    }

    #[test]
    fn a_hostile_column_name_never_meets_sql() {
        let row = |name: &str| Map::from_iter([(name.to_owned(), Value::from(1))]);
        assert!(insert_statement("apps", &row("id")).is_some());
        for bad in ["", "id) VALUES (1); DROP TABLE apps; --", "Id", "a b"] {
            assert!(insert_statement("apps", &row(bad)).is_none(), "{bad} was accepted");
        }
    }
}
