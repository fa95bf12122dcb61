//! Backups: whole or refused.

use super::*;

/// Something of every kind of record.
pub async fn fill(store: &Store, keyring: &Keyring) {
    create_app(store, &new_app("web")).await.unwrap();
    enrol(store, &new_node("ams1")).await.unwrap();
    record_machine(store, &new_machine("web", "one")).await.unwrap();
    change_secrets(store, keyring, &[("A", Some("1"))]).await.unwrap();
    create_token(store, TokenHash([1; 32]), &join_token()).await;
    begin_move(store).await;
    let release = create_release(store, "web", 1).await.id;
    let lease = &take_deploy(store, &release, "one", NOW).await.unwrap();
    let (app, edge): (&AppName, &NodeName) = (&parsed("web"), &parsed("ams1"));
    let plan = &json!({"steps": []});
    let challenge =
        &Challenge { host: "web.apps.test".into(), value: "a".into(), ends_at_ms: NOW + 1, created_at_ms: NOW };
    store
        .write(|tx| async move {
            tx.deploy_plan_record(lease, 0, plan).await?;
            tx.deploy_outcome_append(lease, 1, 0, plan, NOW).await?;
            tx.deploy_event_append(lease, plan, NOW).await?;
            tx.setting_set("instance", &[0, 255, 7]).await?;
            tx.scale_set(app, &Scale { process_group: "app".into(), region: parsed("ams"), count: 2 }).await?;
            tx.challenge_put(challenge).await?;
            tx.hub_heartbeat("hub", "192.0.2.1:4281", NOW).await?;
            tx.edge_lease(edge, "hub", NOW).await?;
            let id = tx.audit_begin(&call("Apps_create", "web"), NOW).await?;
            let change = AuditChange { before: None, after: Some(json!({"name": "web"})) };
            let end = AuditEnd { outcome: AuditOutcome::Done, error: None, change };
            tx.audit_end(&id, &call("Apps_create", "web"), &end).await
        })
        .await
        .unwrap();
}

/// What a backup of the store says, without compression.
pub async fn dump(store: &Store) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump");
    store.backup(&path, NOW).await.unwrap();
    zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()
}

pub async fn a_backup_is_refused_when_damaged_or_not_into_new_records(store: &Store) {
    let dir = tempfile::tempdir().unwrap();
    let (_, keyring) = keyring(dir.path());
    fill(store, &keyring).await;
    let path = dir.path().join("backup");
    let summary = store.backup(&path, NOW).await.unwrap();
    assert!(summary.rows > 17, "{summary:?}");
    let error = store.restore(&path).await.unwrap_err();
    assert!(matches!(error, BackupError::NotEmpty { .. }), "{error:?}");

    let empty = Store::open(&Location::Sqlite(dir.path().join("empty.db"))).await.unwrap();
    let whole = zstd::decode_all(std::fs::File::open(&path).unwrap()).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let without_a_row = [&lines[..3], &lines[4..]].concat().concat();
    let without_end = lines[..lines.len() - 1].concat();
    let altered = String::from_utf8(whole.clone()).unwrap().replace("nginx", "xnign").into_bytes();
    let newer = String::from_utf8(whole.clone()).unwrap().replacen("\"schema\":", "\"schema\":99", 1).into_bytes();
    for (what, content) in [
        ("a row missing", without_a_row),
        ("no end", without_end),
        ("altered", altered),
        ("newer", newer),
        ("something else", b"{}\n".to_vec()),
        ("nothing", Vec::new()),
    ] {
        std::fs::write(&path, zstd::encode_all(content.as_slice(), 0).unwrap()).unwrap();
        let error = empty.restore(&path).await.expect_err(what);
        assert!(matches!(error, BackupError::Damaged { .. } | BackupError::Newer { .. }), "{what}: {error:?}");
    }
    std::fs::write(&path, zstd::encode_all(whole.as_slice(), 0).unwrap()).unwrap();
    assert_eq!(empty.restore(&path).await.unwrap(), summary);
    assert!(dump(&empty).await == whole, "the restored records differ");
    assert_eq!(secret_values(&empty, &keyring, 1).await, map(&[("A", "1")]));
}
