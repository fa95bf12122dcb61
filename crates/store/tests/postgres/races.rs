//! Two control processes on one database: of those who want the same thing exactly one gets it, and
//! nothing that was acknowledged is lost.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use atoll_store::*;

use crate::server;
use crate::suite::*;

async fn two_stores(database: &server::Database) -> [Store; 2] {
    // Both migrate the empty database at the same time.
    let location = database.location();
    let (one, two) = tokio::join!(Store::open(&location), Store::open(&location));
    [one.unwrap(), two.unwrap()]
}

/// How many of the racers won; each of the others must have lost for one of the reasons named.
fn winners<T>(results: Vec<Result<T, StoreError>>, losing: &[ErrorKind]) -> usize {
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    for error in lost.into_iter().filter_map(Result::err) {
        assert!(losing.contains(&error.kind()), "lost for another reason: {error:?}");
    }
    won.len()
}

async fn race<T: Send + 'static, Fut>(stores: &[Store; 2], work: impl Fn(Store, usize) -> Fut) -> Vec<T>
where
    Fut: Future<Output = T> + Send + 'static,
{
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..8 {
        racers.spawn(work(stores[racer % 2].clone(), racer));
    }
    racers.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_gets_an_apps_name() {
    let database = server::database();
    let stores = two_stores(&database).await;
    for round in 0..5 {
        let name = format!("web-{round}");
        let results = race(&stores, |store, _| {
            let new = new_app(&name);
            async move { create_app(&store, &new).await }
        })
        .await;
        assert_eq!(winners(results, &[ErrorKind::Taken]), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_gets_a_machines_name() {
    let database = server::database();
    let stores = two_stores(&database).await;
    create_app(&stores[0], &new_app("web")).await.unwrap();
    let results =
        race(&stores, |store, _| async move { record_machine(&store, &new_machine("web", "one")).await }).await;
    assert_eq!(winners(results, &[ErrorKind::Taken]), 1);
    let records =
        race(
            &stores,
            |store, racer| async move { record_machine(&store, &new_machine("web", &format!("m{racer}"))).await },
        )
        .await;
    let addresses: BTreeSet<_> = records.into_iter().map(|record| record.unwrap().private_ip).collect();
    assert_eq!(addresses.len(), 8, "an address was given out twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_is_redeemed_once() {
    let database = server::database();
    let stores = two_stores(&database).await;
    let hash = TokenHash([1; 32]);
    create_token(&stores[0], hash, &join_token()).await;
    let results =
        race(&stores, |store, racer| async move { redeem(&store, hash, &format!("node{racer}"), "key", NOW).await })
            .await;
    assert_eq!(winners(results, &[ErrorKind::Invalid]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_executor_takes_over_an_orphaned_deploy() {
    let database = server::database();
    let stores = two_stores(&database).await;
    create_app(&stores[0], &new_app("web")).await.unwrap();
    let release = create_release(&stores[0], "web", 1).await.id;
    take_deploy(&stores[0], &release, "dead", NOW).await.unwrap();
    let results = race(&stores, |store, racer| {
        let release = release.clone();
        async move { take_deploy(&store, &release, &format!("executor-{racer}"), NOW + 20_000).await }
    })
    .await;
    assert_eq!(winners(results, &[ErrorKind::Conflict]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_versions_are_counted_across_stores() {
    let database = server::database();
    let stores = two_stores(&database).await;
    let dir = tempfile::tempdir().unwrap();
    let (_, keyring) = keyring(dir.path());
    create_app(&stores[0], &new_app("web")).await.unwrap();
    let versions = race(&stores, |store, racer| {
        let keyring = keyring.clone();
        async move { change_secrets(&store, &keyring, &[(&format!("S{racer}"), Some("x"))]).await.unwrap() }
    })
    .await;
    assert_eq!(versions.into_iter().collect::<BTreeSet<_>>(), (1..=8).collect());
    assert_eq!(secret_values(&stores[1], &keyring, 8).await.len(), 8);
}

const CHILD_URL: &str = "ATOLL_STORE_RACER_URL";

/// Run as a process of its own by the test below; without its variable it has nothing to do.
#[tokio::test]
async fn racer_process() {
    let Ok(url) = std::env::var(CHILD_URL) else { return };
    let store = Store::open(&url.parse().unwrap_or_else(|error| match error {})).await.unwrap();
    for number in 0..20 {
        match create_app(&store, &new_app(&format!("app-{number}"))).await {
            Ok(app) => println!("won {}", app.name),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Taken, "{error:?}"),
        }
    }
}

#[test]
fn two_processes_share_out_the_names() {
    let database = server::database();
    let racer = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "races::racer_process", "--nocapture"])
            .env(CHILD_URL, database.url())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let won: Vec<String> = [racer(), racer()]
        .into_iter()
        .flat_map(|racer| {
            let output = racer.wait_with_output().unwrap();
            assert!(output.status.success());
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines().filter_map(|line| line.split_once("won ").map(|(_, name)| name.to_owned())).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(won.len(), 20, "a name was given twice or to nobody: {won:?}");
    assert_eq!(won.iter().collect::<BTreeSet<_>>().len(), 20);
}
