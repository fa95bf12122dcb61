//! The records on PostgreSQL: the suite both engines pass, and races between processes. Needs root
//! and Debian's `postgresql` package; each test has a database of its own in one private server.

mod races;
mod server;
#[path = "../suite/mod.rs"]
mod suite;

use atoll_store::{Location, Store};

macro_rules! on_postgres {
    ($($case:ident)*) => { $(
        #[tokio::test]
        async fn $case() {
            let database = server::database();
            let store = Store::open(&database.location()).await.unwrap();
            suite::$case(&store).await;
            store.close().await;
        }
    )* };
}
suite::every_case!(on_postgres);

#[tokio::test]
async fn a_backup_moves_between_the_engines() {
    let dir = tempfile::tempdir().unwrap();
    let (_, keyring) = suite::keyring(dir.path());
    let sqlite = |name: &str| Location::Sqlite(dir.path().join(name));
    let first = Store::open(&sqlite("first.db")).await.unwrap();
    suite::fill(&first, &keyring).await;
    let path = dir.path().join("backup");
    let summary = first.backup(&path, suite::NOW).await.unwrap();

    let database = server::database();
    let second = Store::open(&database.location()).await.unwrap();
    assert_eq!(second.restore(&path).await.unwrap(), summary);
    let expected = suite::dump(&first).await;
    assert!(suite::dump(&second).await == expected, "PostgreSQL's copy differs");
    second.backup(&path, suite::NOW).await.unwrap();

    let third = Store::open(&sqlite("third.db")).await.unwrap();
    third.restore(&path).await.unwrap();
    assert!(suite::dump(&third).await == expected, "the copy that came back differs");
}
