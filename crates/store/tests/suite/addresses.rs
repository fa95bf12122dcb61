//! Addresses of apps: whose they are, and when they may be another's.

use std::net::IpAddr;

use super::*;

fn bound(app: &str, address: &str, kind: AddressKind, at: u64) -> AppAddress {
    AppAddress {
        address: parsed(address),
        app: parsed(app),
        kind,
        host_route: kind == AddressKind::Dedicated,
        network: None,
        created_at_ms: at,
    }
}

async fn bind(store: &Store, new: AppAddress) -> Result<(), StoreError> {
    let new = &new;
    store.write(|tx| async move { tx.address_bind(new).await }).await
}

async fn of(store: &Store, app: &str) -> Vec<String> {
    let app: &AppName = &parsed(app);
    let held = store.read(|tx| async move { tx.addresses_of(app).await }).await.unwrap();
    held.into_iter().map(|held| held.address.to_string()).collect()
}

pub async fn an_address_is_one_apps_until_it_has_rested(store: &Store) {
    use AddressKind::Dedicated;
    create_app(store, &new_app("web")).await.unwrap();
    create_app(store, &new_app("db")).await.unwrap();
    let address = "2001:db8::7";
    let first = bound("web", address, Dedicated, NOW);
    bind(store, first.clone()).await.unwrap();
    bind(store, bound("web", "192.0.2.1", Dedicated, NOW + 1)).await.unwrap();
    assert_eq!(of(store, "web").await, [address, "192.0.2.1"]);
    let all = store.read(|tx| async move { tx.addresses().await }).await.unwrap();
    assert_eq!(all[0], first);
    let error = bind(store, bound("db", address, Dedicated, NOW)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("app web"), "{error}");
    assert_eq!(bind(store, first).await.unwrap_err().kind(), ErrorKind::Taken);

    let (web, db): (&AppName, &AppName) = (&parsed("web"), &parsed("db"));
    let given: IpAddr = parsed(address);
    let release = |app, until| store.write(move |tx| async move { tx.address_release(app, given, until).await });
    assert_eq!(release(db, NOW).await.unwrap_err().kind(), ErrorKind::NotFound, "it is another's");
    release(web, NOW + 10).await.unwrap();
    assert_eq!(release(web, NOW + 10).await.unwrap_err().kind(), ErrorKind::NotFound);
    let resting = async || store.read(|tx| async move { tx.addresses_resting().await }).await.unwrap();
    let rests = |app: &AppName, until, gone| RestingAddress {
        address: given,
        rests_until_ms: until,
        app: Some(app.clone()),
        gone,
    };
    assert_eq!(resting().await, [rests(web, NOW + 10, None)]);
    let gone = RowVersion { epoch: 1, sequence: 7 };
    store.write(|tx| async move { tx.addresses_gone(&[given], gone).await }).await.unwrap();
    assert_eq!(resting().await, [rests(web, NOW + 10, Some(gone))]);
    // Whether it has rested is not judged here.
    let early = bind(store, bound("db", address, Dedicated, NOW + 11)).await.unwrap_err();
    assert!(early.to_string().contains("rests"), "{early}");
    let rested = async || store.write(|tx| async move { tx.addresses_rested(&[given]).await }).await.unwrap();
    rested().await;
    bind(store, bound("db", address, Dedicated, NOW)).await.unwrap();

    // What an app still has when it goes rests as well.
    let gone = store.write(|tx| async move {
        tx.addresses_release(db, NOW + 20).await?;
        tx.app_delete(db).await
    });
    gone.await.unwrap();
    assert_eq!(resting().await, [rests(db, NOW + 20, None)]);
    rested().await;
    bind(store, bound("web", address, Dedicated, NOW)).await.unwrap();

    store.write(|tx| async move { tx.app_set_status(web, AppStatus::Deleting).await }).await.unwrap();
    let late = bind(store, bound("web", "192.0.2.2", Dedicated, NOW)).await.unwrap_err();
    assert!(late.to_string().contains("being deleted"), "{late}");
}

pub async fn a_shared_address_is_many_apps(store: &Store) {
    use AddressKind::{Dedicated, Shared};
    for name in ["web", "db", "queue"] {
        create_app(store, &new_app(name)).await.unwrap();
    }
    let pool = AddressPool { prefix: "192.0.2.0/28".into(), shared: true, host_routes: false, created_at_ms: NOW };
    let added = &pool;
    let add = || store.write(move |tx| async move { tx.address_pool_add(added).await });
    add().await.unwrap();
    assert_eq!(add().await.unwrap_err().kind(), ErrorKind::Taken);
    assert_eq!(store.read(|tx| async move { tx.address_pools().await }).await.unwrap(), std::slice::from_ref(&pool));

    bind(store, bound("web", "192.0.2.1", Shared, NOW)).await.unwrap();
    bind(store, bound("db", "192.0.2.1", Shared, NOW)).await.unwrap();
    let error = bind(store, bound("queue", "192.0.2.1", Dedicated, NOW)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let (web, given): (&AppName, IpAddr) = (&parsed("web"), parsed("192.0.2.1"));
    store.write(|tx| async move { tx.address_release(web, given, NOW + 10).await }).await.unwrap();
    assert_eq!((of(store, "web").await.len(), of(store, "db").await.len()), (0, 1));
    bind(store, bound("web", "192.0.2.1", Shared, NOW)).await.expect("what is shared needs no rest");

    let prefix = pool.prefix.as_str();
    let remove = || store.write(move |tx| async move { tx.address_pool_remove(prefix).await });
    remove().await.unwrap();
    assert_eq!(remove().await.unwrap_err().kind(), ErrorKind::NotFound);
}
