//! Releases and the leases of those who carry them out.

use super::*;

pub async fn releases_are_numbered_and_run_one_at_a_time(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    let first = create_release(store, "web", 1).await;
    let begin = |id: String| async move {
        let id = id.as_str();
        store.write(|tx| async move { tx.release_begin(id, NOW).await }).await
    };
    let end = |id: String, status| async move {
        let id = id.as_str();
        store.write(|tx| async move { tx.release_end(id, status, NOW).await }).await
    };
    begin(first.id.clone()).await.unwrap();
    let second = create_release(store, "web", 2).await;
    let third = create_release(store, "web", 3).await;
    assert_eq!((first.version, second.version, third.version), (1, 2, 3));
    assert_eq!(begin(third.id.clone()).await.unwrap_err().kind(), ErrorKind::Conflict, "the first still runs");
    assert_eq!(begin(second.id.clone()).await.unwrap_err().kind(), ErrorKind::Conflict, "it was superseded");
    end(first.id.clone(), ReleaseStatus::Complete).await.unwrap();
    end(first.id.clone(), ReleaseStatus::Complete).await.unwrap();
    assert_eq!(end(first.id.clone(), ReleaseStatus::Failed).await.unwrap_err().kind(), ErrorKind::Conflict);
    begin(third.id.clone()).await.unwrap();
    end(third.id, ReleaseStatus::Failed).await.unwrap();

    let app: &AppName = &parsed("web");
    let (list, last) = store
        .read(|tx| async move {
            Ok::<_, StoreError>((tx.release_list(app, 10).await?, tx.release_last_complete(app).await?))
        })
        .await
        .unwrap();
    let statuses: Vec<_> = list.iter().map(|release| (release.version, release.status.as_str())).collect();
    assert_eq!(statuses, [(3, "failed"), (2, "superseded"), (1, "complete")]);
    assert_eq!(last.unwrap().content, new_release(1));
}

pub async fn take_deploy(store: &Store, release: &str, executor: &str, now: u64) -> Result<DeployLease, StoreError> {
    store.write(|tx| async move { tx.deploy_lease_take(release, executor, now, now + 10_000).await }).await
}

pub async fn a_stale_executor_is_refused(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    let release = create_release(store, "web", 1).await.id;
    let release = release.as_str();
    let old = take_deploy(store, release, "one", NOW).await.unwrap();
    assert_eq!(take_deploy(store, release, "two", NOW + 1).await.unwrap_err().kind(), ErrorKind::Conflict);

    let plan = |lease: DeployLease, replaces| async move {
        let lease = &lease;
        let plan = &json!({"steps": 2});
        store.write(|tx| async move { tx.deploy_plan_record(lease, replaces, plan).await }).await
    };
    let outcome = |lease: DeployLease, generation, step, outcome: &'static str| async move {
        let (lease, outcome) = (&lease, &json!(outcome));
        store.write(|tx| async move { tx.deploy_outcome_append(lease, generation, step, outcome, NOW).await }).await
    };
    let event = |lease: DeployLease| async move {
        let (lease, event) = (&lease, &json!({"type": "started"}));
        store.write(|tx| async move { tx.deploy_event_append(lease, event, NOW).await }).await
    };
    assert_eq!(plan(old.clone(), 0).await.unwrap(), 1);
    outcome(old.clone(), 1, 0, "done").await.unwrap();
    outcome(old.clone(), 1, 0, "done").await.expect("the same outcome again");
    assert_eq!(outcome(old.clone(), 1, 0, "failed").await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((event(old.clone()).await.unwrap(), event(old.clone()).await.unwrap()), (1, 2));

    let orphans = |now| store.read(move |tx| async move { tx.deploy_orphans(now, 10).await });
    assert_eq!(orphans(NOW).await.unwrap(), []);
    assert_eq!(orphans(NOW + 10_000).await.unwrap().len(), 1);
    let new = take_deploy(store, release, "two", NOW + 10_000).await.unwrap();
    assert!(new.fence > old.fence);
    for refused in [
        plan(old.clone(), 1).await.map(drop),
        outcome(old.clone(), 1, 1, "done").await,
        event(old.clone()).await.map(drop),
        store
            .write(|tx| {
                let old = old.clone();
                async move { tx.deploy_lease_renew(&old, NOW + 99_000).await.map(drop) }
            })
            .await,
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert_eq!(plan(new.clone(), 1).await.unwrap(), 2);
    assert_eq!(outcome(new.clone(), 1, 1, "done").await.unwrap_err().kind(), ErrorKind::Conflict, "an old plan's step");
    outcome(new.clone(), 2, 0, "done").await.unwrap();
    assert_eq!(event(new).await.unwrap(), 3);

    let (outcomes, events) = store
        .read(|tx| async move {
            Ok::<_, StoreError>((tx.deploy_outcomes(release, 1).await?, tx.deploy_events(release, 1, 10).await?))
        })
        .await
        .unwrap();
    assert_eq!(outcomes.len(), 1);
    assert_eq!(events.iter().map(|event| event.number).collect::<Vec<_>>(), [2, 3]);
}
