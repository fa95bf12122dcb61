use atoll_model::policy::NetworkPolicy;

use super::*;

fn policy(name: &str, rules: serde_json::Value) -> NetworkPolicy {
    serde_json::from_value(json!({ "name": name, "selector": { "all": true }, "rules": rules })).unwrap()
}

pub async fn policies_have_one_name_in_their_app(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    create_app(store, &new_app("other")).await.unwrap();
    let (web, other): (&AppName, &AppName) = (&parsed("web"), &parsed("other"));
    let rule = json!([{ "action": "allow", "direction": "egress", "ports": [{ "protocol": "udp", "port": 53 }] }]);
    let (first, second) = (&policy("first", rule), &policy("second", json!([])));
    let ids = store
        .write(|tx| async move {
            let made = tx.policy_put(web, None, first, NOW).await?;
            let more = tx.policy_put(web, None, second, NOW + 1).await?;
            tx.policy_put(other, None, first, NOW).await?;
            assert_eq!(tx.policy_list(web).await?, [made.clone(), more.clone()]);
            assert!(matches!(tx.policy_put(web, None, first, NOW).await, Err(StoreError::Conflict { .. })));
            assert!(matches!(tx.policy_put(web, Some(&made.id), second, NOW).await, Err(StoreError::Conflict { .. })));
            let foreign = tx.policy_put(other, Some(&made.id), second, NOW).await;
            assert!(matches!(foreign, Err(StoreError::NotFound { .. })), "another app's policy was changed");
            let renamed = NetworkPolicy { name: "third".into(), ..first.clone() };
            assert_eq!(tx.policy_put(web, Some(&made.id), &renamed, NOW + 2).await?.id, made.id);
            assert_eq!(tx.policy_list(web).await?[0].policy, renamed);
            Ok::<_, StoreError>((made.id, more.id))
        })
        .await
        .unwrap();
    let (made, more) = (&ids.0, &ids.1);
    let unsettled = store.read(|tx| async move { tx.policies_unsettled().await }).await.unwrap();
    assert_eq!(unsettled.iter().map(|it| it.app.as_str()).collect::<Vec<_>>(), ["other", "web"]);
    // Of a change since, nothing is settled.
    store.write(|tx| async move { tx.policies_unsettle(web).await }).await.unwrap();
    for unsettled in &unsettled {
        store.write(|tx| async move { tx.policies_settle(unsettled).await }).await.unwrap();
    }
    let left = store.read(|tx| async move { tx.policies_unsettled().await }).await.unwrap();
    assert_eq!(left.iter().map(|it| &it.app).collect::<Vec<_>>(), [web]);
    store.write(|tx| async move { tx.policies_unsettle_all().await }).await.unwrap();
    let all = store.read(|tx| async move { tx.policies_unsettled().await }).await.unwrap();
    assert!(all.len() == 2 && all[1].mark != left[0].mark, "{all:?}");
    store
        .write(|tx| async move {
            assert!(matches!(tx.policy_delete(other, made).await, Err(StoreError::NotFound { .. })));
            tx.policy_delete(web, made).await?;
            assert!(matches!(tx.policy_delete(web, made).await, Err(StoreError::NotFound { .. })));
            let left = tx.policy_list(web).await?;
            assert_eq!((left.len(), &left[0].id), (1, more));
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
}
