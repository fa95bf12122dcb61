//! Tables and their additive migrations. `user_version` counts the migrations applied.

use std::path::Path;

use sqlx::{Connection, Executor, Row, SqliteConnection};

use super::StoreError;

/// Each entry is applied once, in order, in a transaction of its own. Never edit one: add.
const MIGRATIONS: &[&str] = &[
    // `state`: the durable state as JSON. `bundle`: the launch bundle without secret values.
    // `sealed`: the whole bundle, sealed to this node; NULL once destroyed.
    "CREATE TABLE machine (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        bundle TEXT NOT NULL,
        sealed BLOB
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE event (
        machine TEXT NOT NULL,
        id TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (machine, id)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE version (
        machine TEXT NOT NULL,
        version TEXT NOT NULL,
        config TEXT NOT NULL,
        PRIMARY KEY (machine, version)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE intent (
        machine TEXT NOT NULL,
        kind TEXT NOT NULL,
        names TEXT NOT NULL,
        opened_at_ms INTEGER NOT NULL,
        outcome TEXT,
        closed_at_ms INTEGER,
        PRIMARY KEY (machine, kind)
     ) STRICT, WITHOUT ROWID;",
];

pub async fn prepare(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let fail = |source| StoreError::query("prepare", source);
    let row = sqlx::query("PRAGMA user_version").fetch_one(&mut *connection).await.map_err(fail)?;
    let found: i64 = row.try_get(0).map_err(fail)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::TooNew { path: path.display().to_string(), found, known });
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        let mut transaction = connection.begin().await.map_err(fail)?;
        transaction.execute(sqlx::raw_sql(*migration)).await.map_err(fail)?;
        // The pragma takes no bound value; the number is ours.
        let version = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {}", index + 1));
        transaction.execute(sqlx::raw_sql(version)).await.map_err(fail)?;
        transaction.commit().await.map_err(fail)?;
    }
    Ok(())
}
