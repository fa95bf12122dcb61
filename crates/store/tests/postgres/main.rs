//! The records on PostgreSQL: the suite both engines pass, and races between processes. Needs root
//! and Debian's `postgresql` package; each test has a database of its own in one private server.

mod races;
mod server;
#[path = "../suite/mod.rs"]
mod suite;

use atoll_store::Store;

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
