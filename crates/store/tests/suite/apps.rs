//! Apps: names, pages, networks, and their end.

use super::*;

pub async fn apps_have_one_name_and_a_lasting_network(store: &Store) {
    let web = create_app(store, &new_app("web")).await.unwrap();
    assert_eq!((web.id.len(), web.status, web.network_name.as_str()), (16, AppStatus::Pending, DEFAULT_NETWORK));
    let error = create_app(store, &new_app("web")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Taken { holder: Some(id), .. } if *id == web.id), "{error:?}");

    let sibling = create_app(store, &new_app("sibling")).await.unwrap();
    assert_eq!(sibling.network, web.network);
    let apart = create_app(store, &NewApp { network: Some("apart".into()), ..new_app("apart") }).await.unwrap();
    assert_ne!(apart.network, web.network);

    let name = &web.name;
    store.write(|tx| async move { tx.app_delete(name).await }).await.unwrap();
    let again = create_app(store, &new_app("web")).await.unwrap();
    assert_eq!(again.network, web.network, "a network's id is permanent");
    assert_ne!(again.id, web.id, "an app's id is not given out again");
    assert!(again.numeric_id > sibling.numeric_id);

    let bad = create_app(store, &NewApp { network: Some("7th".into()), ..new_app("bad") }).await.unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::Invalid);
    let nobody = create_app(store, &NewApp { org: parsed("nobody"), ..new_app("bad") }).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
}

pub async fn an_idempotency_key_answers_the_first_app(store: &Store) {
    let keyed = NewApp { idempotency_key: Some("k".into()), ..new_app("web") };
    let first = create_app(store, &keyed).await.unwrap();
    assert_eq!(create_app(store, &keyed).await.unwrap(), first);
    let other = NewApp { name: parsed("other"), ..keyed };
    assert_eq!(create_app(store, &other).await.unwrap_err().kind(), ErrorKind::Conflict);
}

pub async fn apps_are_listed_in_pages(store: &Store) {
    // '-' sorts before letters by bytes, which a database's own language might do differently.
    for name in ["b", "a-c", "ab", "a1", "c"] {
        create_app(store, &new_app(name)).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut request = PageRequest { limit: Some(2), cursor: None };
    loop {
        let request_now = &request;
        let org: &OrgSlug = &parsed(DEFAULT_ORGANIZATION);
        let page = store.read(|tx| async move { tx.app_list(Some(org), request_now).await }).await.unwrap();
        seen.extend(page.items.into_iter().map(|app| app.name.to_string()));
        match page.next {
            Some(next) => request.cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, ["a-c", "a1", "ab", "b", "c"]);
    let count = store.read(|tx| async move { tx.app_count(None).await }).await.unwrap();
    assert_eq!(count, 5);
}

pub async fn an_app_goes_with_all_it_had(store: &Store) {
    let dir = tempfile::tempdir().unwrap();
    let (_, keyring) = keyring(dir.path());
    create_app(store, &new_app("web")).await.unwrap();
    change_secrets(store, &keyring, &[("A", Some("1"))]).await.unwrap();
    let release = create_release(store, "web", 1).await;
    let id = record_machine(store, &new_machine("web", "one")).await.unwrap().id;
    let app: &AppName = &parsed("web");
    let delete = || store.write(|tx| async move { tx.app_delete(app).await });
    assert_eq!(delete().await.unwrap_err().kind(), ErrorKind::Conflict, "a machine is left");
    store
        .write(|tx| async move {
            tx.app_set_status(app, AppStatus::Deleting).await?;
            tx.machine_destroy_intend(id, NOW).await?;
            tx.machine_destroyed(id, NOW).await
        })
        .await
        .unwrap();
    let late = record_machine(store, &new_machine("web", "two")).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict, "a machine was recorded for an app that is going");
    delete().await.unwrap();
    let release_id = release.id.as_str();
    let gone = store.read(|tx| async move { tx.deploy_fetch(release_id).await }).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
    create_app(store, &new_app("web")).await.unwrap();
    assert_eq!(secret_values(store, &keyring, 9).await, map(&[]), "a new app of the name has nothing of the old");
}
