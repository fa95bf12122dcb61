//! What every write keeps: settings, races, failures, cancellation.

use super::*;

pub async fn scales_hubs_and_settings_are_kept(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    let (app, edge): (&AppName, &NodeName) = (&parsed("web"), &parsed("ams1"));
    let (ams, nrt): (RegionCode, RegionCode) = (parsed("ams"), parsed("nrt"));
    store
        .write(|tx| async move {
            tx.scale_replace(app, "app", &[(ams, 1), (nrt, 2)]).await?;
            tx.scale_replace(app, "app", &[(nrt, 3)]).await?;
            tx.app_set_regions(app, Some(nrt), &[nrt, ams]).await?;
            tx.app_set_status(app, AppStatus::Deployed).await?;
            tx.setting_ensure("instance", b"one").await?;
            assert_eq!(tx.setting_ensure("instance", b"two").await?, b"one");
            tx.setting_set("ca", b"2").await?;
            tx.hub_heartbeat("hub-1", "192.0.2.1:4281", NOW).await?;
            tx.hub_heartbeat("hub-2", "192.0.2.2:4281", NOW + 60_000).await?;
            tx.edge_lease(edge, "hub-1", NOW + 5_000).await?;
            tx.edge_lease(edge, "hub-2", NOW + 65_000).await?;
            assert!(!tx.edge_release(edge, "hub-1").await?, "the edge moved on");
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
    store
        .read(|tx| async move {
            let scales = tx.scale_list(app).await?;
            assert_eq!(scales, [Scale { process_group: "app".into(), region: nrt, count: 3 }]);
            let known = tx.app_fetch(app).await?;
            assert_eq!((known.primary_region, known.regions), (Some(nrt), vec![nrt, ams]));
            assert_eq!(known.status, AppStatus::Deployed);
            assert_eq!(tx.setting_fetch("ca").await?.as_deref(), Some(b"2".as_slice()));
            assert_eq!(tx.setting_fetch("none").await?, None);
            assert_eq!(tx.hub_list(NOW + 1).await?.len(), 1);
            let leases = tx.edge_leases(NOW + 60_000).await?;
            assert_eq!((leases.len(), leases[0].hub.as_str()), (1, "hub-2"));
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
}

pub async fn racing_writers_lose_nothing(store: &Store) {
    let dir = tempfile::tempdir().unwrap();
    let (_, keyring) = keyring(dir.path());
    create_app(store, &new_app("web")).await.unwrap();
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..6 {
        let (store, keyring) = (store.clone(), keyring.clone());
        racers.spawn(async move {
            let name = format!("R{racer}");
            let mut versions = Vec::new();
            for round in ["0", "1", "2"] {
                versions.push(change_secrets(&store, &keyring, &[(&name, Some(round))]).await.unwrap());
            }
            versions
        });
    }
    let mut versions: Vec<u64> = racers.join_all().await.into_iter().flatten().collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=18).collect::<Vec<_>>(), "a version was given twice or lost");
    assert_eq!(secret_values(store, &keyring, 18).await.len(), 6);
}

pub async fn a_failed_closure_changes_nothing(store: &Store) {
    let result = store
        .write(|tx| async move {
            tx.organization_ensure_default(NOW).await?;
            tx.app_create(&new_app("web"), NOW).await?;
            tx.app_create(&new_app("web"), NOW).await
        })
        .await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Taken);
    let count = store.read(|tx| async move { tx.app_count(None).await }).await.unwrap();
    assert_eq!(count, 0);
}

pub async fn a_cancelled_closure_changes_nothing(store: &Store) {
    let (reached, mut reach) = tokio::sync::mpsc::channel(1);
    let (clone, reached) = (store.clone(), Arc::new(reached));
    let writer = tokio::spawn(async move {
        let reached = &reached;
        clone
            .write::<(), StoreError, _, _>(|tx| async move {
                tx.organization_ensure_default(NOW).await?;
                reached.send(()).await.unwrap();
                std::future::pending().await
            })
            .await
    });
    reach.recv().await.unwrap();
    writer.abort();
    assert!(writer.await.unwrap_err().is_cancelled());
    let organizations = store.read(|tx| async move { tx.organization_list().await }).await.unwrap();
    assert_eq!(organizations, []);
    create_app(store, &new_app("web")).await.expect("the next writer is not hindered");
}
