//! The audit: begun before, ended after, found again, forgotten in time.

use super::*;

pub fn call(operation: &str, app: &str) -> AuditCall {
    AuditCall {
        token: "t1".into(),
        actor: "tester".into(),
        role: TokenKind::Owner,
        operation: operation.into(),
        org: Some(DEFAULT_ORGANIZATION.into()),
        app: Some(app.into()),
        target: format!("app={app}"),
    }
}

fn end(outcome: AuditOutcome) -> AuditEnd {
    AuditEnd { outcome, error: None, change: AuditChange::default() }
}

async fn record(store: &Store, call: &AuditCall, outcome: AuditOutcome, at_ms: u64) {
    let end = &end(outcome);
    let recorded = store.write(|tx| async move {
        let id = tx.audit_begin(call, at_ms).await?;
        tx.audit_end(&id, call, end).await
    });
    recorded.await.unwrap();
}

async fn listed(store: &Store, filter: &AuditFilter) -> Vec<AuditEntry> {
    let page = &PageRequest::default();
    store.read(|tx| async move { tx.audit_list(filter, page).await }).await.unwrap().items
}

pub async fn a_record_is_begun_before_and_ended_after(store: &Store) {
    // What is known before is not what is known after.
    let begun = &AuditCall { org: None, role: TokenKind::ReadOnly, ..call("NetworkPolicies_put", "web") };
    let id = &store.write(|tx| async move { tx.audit_begin(begun, NOW).await }).await.unwrap();
    let all = &AuditFilter::default();
    let entry = AuditEntry { id: id.clone(), at_ms: NOW, call: begun.clone(), end: end(AuditOutcome::Unknown) };
    assert_eq!(listed(store, all).await, std::slice::from_ref(&entry), "a kill here leaves this");

    let call = &call("NetworkPolicies_put", "web");
    let change = AuditChange { before: Some(json!({"rules": []})), after: Some(json!({"rules": [{"port": 80}]})) };
    let end = &AuditEnd { outcome: AuditOutcome::Failed, error: Some("internal".into()), change };
    store.write(|tx| async move { tx.audit_end(id, call, end).await }).await.unwrap();
    assert_eq!(listed(store, all).await, [AuditEntry { call: call.clone(), end: end.clone(), ..entry }]);
}

pub async fn records_are_found_by_time_app_organization_and_actor(store: &Store) {
    let other = AuditCall { token: "t2".into(), actor: "other".into(), org: Some("mine".into()), ..call("b", "db") };
    for (number, call) in (0..).zip([call("a", "web"), other, call("c", "db"), call("d", "web")]) {
        record(store, &call, AuditOutcome::Done, NOW + number).await;
    }
    let of = |text: &str| Some(text.to_owned());
    let all = AuditFilter::default;
    for (filter, expected) in [
        (all(), &["d", "c", "b", "a"][..]),
        (AuditFilter { since_ms: NOW + 2, ..all() }, &["d", "c"]),
        (AuditFilter { app: of("db"), ..all() }, &["c", "b"]),
        (AuditFilter { app: of("db"), actor: of("t2"), ..all() }, &["b"]),
        (AuditFilter { actor: of("tester"), ..all() }, &["d", "c", "a"]),
        (AuditFilter { org: of("mine"), ..all() }, &["b"]),
        (AuditFilter { org: of("nobody"), ..all() }, &[]),
    ] {
        let found: Vec<_> = listed(store, &filter).await.into_iter().map(|entry| entry.call.operation).collect();
        assert_eq!(found, expected, "{filter:?}");
    }

    let filter = &AuditFilter { actor: of("tester"), ..all() };
    let part = |cursor: Option<String>| async move {
        let page = &PageRequest { limit: Some(2), cursor };
        store.read(|tx| async move { tx.audit_list(filter, page).await }).await.unwrap()
    };
    let first = part(None).await;
    let rest = part(first.next.clone()).await;
    let found: Vec<_> = first.items.iter().chain(&rest.items).map(|entry| entry.call.operation.as_str()).collect();
    assert_eq!((found.as_slice(), rest.next), (&["d", "c", "a"][..], None));
}

pub async fn refusals_do_not_fill_the_disk(store: &Store) {
    use AuditOutcome::{Done, Failed, Refused};
    for (number, outcome) in (0..).zip([Done, Refused, Failed, Refused, Done, Refused]) {
        record(store, &call("Apps_create", "web"), outcome, NOW + number).await;
    }
    let prune = |before, refusals| store.write(move |tx| async move { tx.audit_prune(before, refusals).await });
    assert_eq!(prune(NOW, 3).await.unwrap(), 0, "as many as are kept");
    assert_eq!(prune(NOW, 1).await.unwrap(), 2);
    let left: Vec<_> = listed(store, &AuditFilter::default()).await.iter().map(|entry| entry.end.outcome).collect();
    assert_eq!(left, [Refused, Done, Failed, Done]);
    assert_eq!(prune(NOW + 4, 1).await.unwrap(), 2, "what is old goes, however it ended");
    assert_eq!(listed(store, &AuditFilter::default()).await.len(), 2);
}
