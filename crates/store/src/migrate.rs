//! Schema changes: numbered, embedded, additive, applied at start under a lock that other starting
//! processes wait for. A released migration is never edited; the next one adds to it, so that a
//! program one version older keeps working beside a newer one until all are replaced.

use crate::StoreError;
use crate::engine::{Connection, Dialect, Engine, Mode};
use crate::value::params;
use futures_util::TryStreamExt;

/// In order; the schema's version is how many were applied.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_initial.sql"),
    include_str!("../migrations/0002_hubs.sql"),
    include_str!("../migrations/0003_asked.sql"),
    include_str!("../migrations/0004_moves.sql"),
    include_str!("../migrations/0005_node_network.sql"),
    include_str!("../migrations/0006_addresses.sql"),
    include_str!("../migrations/0007_mesh_rpc.sql"),
    include_str!("../migrations/0008_network_policies.sql"),
    include_str!("../migrations/0009_devices.sql"),
    include_str!("../migrations/0010_audit.sql"),
    include_str!("../migrations/0011_challenges.sql"),
    include_str!("../migrations/0012_egress.sql"),
];

/// What this program's records look like.
pub(crate) const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// An arbitrary number that all Atoll programs use to take turns on one PostgreSQL database.
const LOCK: i64 = 0x61_74_6f_6c_6c;

/// Brings the schema to [`SCHEMA_VERSION`], or refuses one that is newer.
pub(crate) async fn migrate(engine: &Engine) -> Result<(), StoreError> {
    migrate_to(engine, SCHEMA_VERSION).await
}

pub(crate) async fn migrate_to(engine: &Engine, target: u32) -> Result<(), StoreError> {
    let mut connection = engine.begin(Mode::Migrate).await.map_err(|source| StoreError::Begin { source })?;
    if engine.dialect() == Dialect::Postgres {
        let sql = "SELECT pg_advisory_xact_lock($1)";
        connection.execute(sql, params![LOCK]).await.map_err(|source| StoreError::Query { sql, source })?;
    }
    let found = schema_version(&mut connection, engine.dialect()).await?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema { found, known: SCHEMA_VERSION });
    }
    for (version, migration) in (1..=target).zip(MIGRATIONS).skip(found as usize) {
        let failed = |source| StoreError::Migrate { version, source };
        connection.command(sqlx::AssertSqlSafe(translate(migration, engine.dialect()))).await.map_err(failed)?;
        connection
            .execute("INSERT INTO schema_migrations (version) VALUES ($1)", params![version])
            .await
            .map_err(failed)?;
        tracing::info!(version, "the records' schema was brought up to date");
    }
    connection.commit().await.map_err(|source| StoreError::Commit { source })
}

async fn schema_version(connection: &mut Connection, dialect: Dialect) -> Result<u32, StoreError> {
    let create = translate("CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY)", dialect);
    let sql = "CREATE TABLE schema_migrations";
    connection.command(sqlx::AssertSqlSafe(create)).await.map_err(|source| StoreError::Query { sql, source })?;
    let sql = "SELECT count(*) AS version FROM schema_migrations";
    let row =
        connection.stream(sql, Vec::new()).try_next().await.map_err(|source| StoreError::Query { sql, source })?;
    row.map_or(Ok(0), |row| row.small("version"))
}

/// Migrations are written in SQLite's words; PostgreSQL has others for the same three types. Text
/// sorts by bytes on both, so that pages and cursors agree.
fn translate(sql: &str, dialect: Dialect) -> String {
    if dialect == Dialect::Sqlite {
        return sql.to_owned();
    }
    let mut out = String::with_capacity(sql.len());
    for line in sql.lines() {
        // A comment is no SQL and may use the words as it likes.
        let code = line.split("--").next().unwrap_or_default();
        for word in code.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let end = &word[bare.len()..];
            out.push_str(match bare {
                "INTEGER" => "BIGINT",
                "TEXT" => "TEXT COLLATE \"C\"",
                "BLOB" => "BYTEA",
                "STRICT" => "",
                other => other,
            });
            out.push_str(end);
        }
        out.push('\n');
    }
    out
}

/// The tables that all migrations make.
#[cfg(test)]
pub(crate) fn tables() -> Vec<String> {
    let words = MIGRATIONS.iter().flat_map(|migration| migration.split("CREATE TABLE ").skip(1));
    words.filter_map(|rest| rest.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Location, Store};

    const V1_RECORDS: &str = include_str!("../tests/fixtures/schema-1.sql");

    #[tokio::test]
    async fn records_of_the_version_before_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::Sqlite(dir.path().join("control.db"));
        let engine = Engine::open(&location).await.unwrap();
        migrate_to(&engine, 1).await.unwrap();
        let mut connection = engine.begin(Mode::Write).await.unwrap();
        connection.command(V1_RECORDS).await.unwrap();
        connection.commit().await.unwrap();
        engine.close().await;

        let store = Store::open(&location).await.unwrap();
        let (name, edge) = (&"web".parse().unwrap(), &"ams1".parse().unwrap());
        let app = store.read(|tx| async move { tx.app_fetch(name).await }).await.unwrap();
        assert_eq!((app.id.as_str(), app.regions.len()), ("aaaaaaaaaaaaaaaa", 2));
        let leased = store
            .write(|tx| async move {
                tx.hub_heartbeat("hub", "192.0.2.1:4281", 1).await?;
                tx.edge_lease(edge, "hub", 2).await
            })
            .await;
        leased.unwrap();
        store.close().await;
        Store::open(&location).await.expect("opening again changes nothing");
    }

    #[tokio::test]
    async fn records_of_a_newer_program_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::Sqlite(dir.path().join("control.db"));
        Store::open(&location).await.unwrap().close().await;
        let engine = Engine::open(&location).await.unwrap();
        let mut connection = engine.begin(Mode::Write).await.unwrap();
        let sql = "INSERT INTO schema_migrations (version) VALUES ($1)";
        connection.execute(sql, params![SCHEMA_VERSION + 1]).await.unwrap();
        connection.commit().await.unwrap();
        engine.close().await;
        let error = Store::open(&location).await.err().unwrap();
        assert!(matches!(error, StoreError::NewerSchema { found, .. } if found == SCHEMA_VERSION + 1), "{error:?}");
    }

    #[test]
    fn types_are_translated_as_whole_words() {
        let sql = "CREATE TABLE t (id INTEGER, TEXTURE TEXT NOT NULL, body BLOB) STRICT; -- INTEGER";
        assert_eq!(
            translate(sql, Dialect::Postgres),
            "CREATE TABLE t (id BIGINT, TEXTURE TEXT COLLATE \"C\" NOT NULL, body BYTEA) ; \n"
        );
        assert_eq!(translate(sql, Dialect::Sqlite), sql);
    }
}
