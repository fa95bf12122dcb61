//! Secrets by version, under keys that are replaced.

use super::*;

pub async fn change_secrets(
    store: &Store,
    keyring: &Keyring,
    changes: &[(&str, Option<&str>)],
) -> Result<u64, StoreError> {
    let app: &AppName = &parsed("web");
    let changes = &changes
        .iter()
        .map(|(name, value)| {
            let change = value.map_or(SecretChange::Unset, |value| SecretChange::Set(value.as_bytes().to_vec()));
            (name.to_string(), change)
        })
        .collect();
    store.write(|tx| async move { tx.secret_change(keyring, app, changes, NOW).await }).await
}

pub async fn secret_values(store: &Store, keyring: &Keyring, version: u64) -> BTreeMap<String, String> {
    let app: &AppName = &parsed("web");
    let values = store.read(|tx| async move { tx.secret_values(keyring, app, version).await }).await.unwrap();
    values.into_iter().map(|(name, value)| (name, String::from_utf8(value).unwrap())).collect()
}

pub async fn secrets_come_back_as_of_any_version(store: &Store) {
    let dir = tempfile::tempdir().unwrap();
    let (_, keyring) = keyring(dir.path());
    create_app(store, &new_app("web")).await.unwrap();
    assert_eq!(change_secrets(store, &keyring, &[("A", Some("1")), ("B", Some("1"))]).await.unwrap(), 1);
    assert_eq!(change_secrets(store, &keyring, &[("A", Some("2")), ("C", None)]).await.unwrap(), 2);
    assert_eq!(change_secrets(store, &keyring, &[("A", None)]).await.unwrap(), 3);
    assert_eq!(secret_values(store, &keyring, 0).await, map(&[]));
    assert_eq!(secret_values(store, &keyring, 1).await, map(&[("A", "1"), ("B", "1")]));
    assert_eq!(secret_values(store, &keyring, 2).await, map(&[("A", "2"), ("B", "1")]));
    assert_eq!(secret_values(store, &keyring, 3).await, map(&[("B", "1")]));

    let app: &AppName = &parsed("web");
    let listed = store.read(|tx| async move { tx.secret_list(app).await }).await.unwrap();
    assert_eq!(listed.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), ["B"]);
    assert_eq!(listed[0].digest.len(), 16);
    store.write(|tx| async move { tx.secret_prune(app, 2).await }).await.unwrap();
    assert_eq!(secret_values(store, &keyring, 2).await, map(&[("A", "2"), ("B", "1")]));
    assert_eq!(secret_values(store, &keyring, 1).await, map(&[("B", "1")]), "a pruned value is gone");
}

pub async fn old_keys_are_replaced_in_place(store: &Store) {
    let dir = tempfile::tempdir().unwrap();
    let (keys, keyring) = keyring(dir.path());
    create_app(store, &new_app("web")).await.unwrap();
    change_secrets(store, &keyring, &[("A", Some("1")), ("B", Some("2")), ("C", Some("3"))]).await.unwrap();
    keys.rotate().unwrap();
    let keyring_now = &keyring;
    let reseal = || store.write(|tx| async move { tx.secret_reseal(keyring_now, 2).await });
    assert_eq!([reseal().await.unwrap(), reseal().await.unwrap(), reseal().await.unwrap()], [2, 1, 0]);
    assert_eq!(secret_values(store, &keyring, 1).await, map(&[("A", "1"), ("B", "2"), ("C", "3")]));
}
