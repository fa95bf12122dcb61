//! Values of `_acme-challenge` records.

use super::*;

pub async fn a_challenge_stays_until_it_ends_or_is_removed(store: &Store) {
    let put = async |host: &str, value: &str, ends_at_ms: u64| {
        let new = &Challenge { host: host.into(), value: value.into(), ends_at_ms, created_at_ms: NOW };
        store.write(|tx| async move { tx.challenge_put(new).await }).await.unwrap();
    };
    let all = async || -> Vec<(String, String, u64)> {
        let all = store.read(|tx| async move { tx.challenges().await }).await.unwrap();
        all.into_iter().map(|found| (found.host, found.value, found.ends_at_ms)).collect()
    };
    let found = |host: &str, value: &str, end: u64| (host.to_owned(), value.to_owned(), end);
    let end = async |now| store.write(|tx| async move { tx.challenges_end(now).await }).await.unwrap();

    put("web.apps.test", "two", NOW + 20).await;
    put("web.apps.test", "one", NOW + 10).await;
    put("db.apps.test", "one", NOW + 10).await;
    // Said again: it lasts longer.
    put("web.apps.test", "two", NOW + 30).await;
    let beside = store.read(|tx| async move { tx.challenged_beside("web.apps.test").await }).await.unwrap();
    assert_eq!(beside, 1);
    assert_eq!(
        all().await,
        [
            found("db.apps.test", "one", NOW + 10),
            found("web.apps.test", "one", NOW + 10),
            found("web.apps.test", "two", NOW + 30),
        ]
    );
    let of_web = store.read(|tx| async move { tx.challenges_of("web.apps.test").await }).await.unwrap();
    assert_eq!(of_web.len(), 2);

    assert!(end(NOW + 9).await.is_empty());
    assert_eq!(end(NOW + 10).await, ["db.apps.test", "web.apps.test"]);
    assert_eq!(all().await, [found("web.apps.test", "two", NOW + 30)]);

    put("web.apps.test", "three", NOW + 30).await;
    let remove = async |value: Option<&str>| {
        store.write(|tx| async move { tx.challenge_remove("web.apps.test", value).await }).await
    };
    assert_eq!(remove(Some("one")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(remove(Some("two")).await.unwrap().len(), 1);
    assert_eq!(remove(None).await.unwrap()[0].value, "three");
    assert_eq!(remove(None).await.unwrap_err().kind(), ErrorKind::NotFound);
}
