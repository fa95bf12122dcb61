//! What the records promise, on whichever engine. Each case gets an empty store.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_keyring::{FileKeys, Keyring};
use atoll_model::{AppName, MachineConfig, MachineState, MachineVersion, NodeName, OrgSlug, RegionCode};
use atoll_store::*;
use serde_json::json;

macro_rules! every_case {
    ($run:ident) => {
        $run! {
            apps_have_one_name_and_a_lasting_network
            an_idempotency_key_answers_the_first_app
            apps_are_listed_in_pages
            a_machines_name_is_unique_while_it_lives
            a_repeated_machine_is_the_same_machine
            addresses_are_never_given_twice
            an_update_is_recorded_before_it_is_made
            observations_are_taken_in_order_and_from_the_current_epoch
            a_lost_node_loses_its_machines_and_its_voice
            a_node_that_lost_its_records_gets_a_new_epoch
            a_join_token_admits_one_node
            releases_are_numbered_and_run_one_at_a_time
            a_stale_executor_is_refused
            secrets_come_back_as_of_any_version
            old_keys_are_replaced_in_place
            tokens_end_when_revoked_or_expired
            scales_hubs_settings_and_audit_are_kept
            an_app_goes_with_all_it_had
            racing_writers_lose_nothing
            a_backup_is_refused_when_damaged_or_not_into_new_records
            a_failed_closure_changes_nothing
            a_cancelled_closure_changes_nothing
        }
    };
}
pub(crate) use every_case;

pub const NOW: u64 = 1_800_000_000_000;

pub fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub fn version(number: u128) -> MachineVersion {
    MachineVersion::from_parts(NOW, number)
}

pub fn new_app(name: &str) -> NewApp {
    NewApp {
        name: parsed(name),
        org: parsed(DEFAULT_ORGANIZATION),
        network: None,
        primary_region: Some(parsed("ams")),
        idempotency_key: None,
    }
}

pub async fn create_app(store: &Store, new: &NewApp) -> Result<App, StoreError> {
    store
        .write(|tx| async move {
            tx.organization_ensure_default(NOW).await?;
            tx.app_create(new, NOW).await
        })
        .await
}

pub fn new_machine(app: &str, name: &str) -> NewMachine {
    NewMachine {
        id: None,
        app: parsed(app),
        name: name.into(),
        idempotency_key: None,
        node: parsed("ams1"),
        region: parsed("ams"),
        process_group: "app".into(),
        spec: spec(1),
        cordoned: false,
    }
}

fn spec(number: u128) -> MachineSpec {
    let env = BTreeMap::from([("NUMBER".to_owned(), number.to_string())]);
    MachineSpec {
        version: version(number),
        config: MachineConfig { image: "nginx".into(), env, ..MachineConfig::default() },
        image: Some("registry.example/nginx@sha256:00".into()),
        release_version: None,
        secrets_version: 0,
    }
}

pub async fn record_machine(store: &Store, new: &NewMachine) -> Result<MachineRecord, StoreError> {
    store.write(|tx| async move { tx.machine_record(new, NOW).await.map(|intent| intent.record().clone()) }).await
}

fn new_node(name: &str) -> NewNode {
    NewNode {
        name: parsed(name),
        region: parsed("ams"),
        key_fingerprint: format!("key of {name}"),
        kept_epoch: None,
        may_replace_key: false,
        cpus: 4,
        memory_mb: 4096,
    }
}

async fn enrol(store: &Store, new: &NewNode) -> Result<Node, StoreError> {
    store.write(|tx| async move { tx.node_enrol(new, NOW).await }).await
}

async fn machine(store: &Store, id: atoll_model::MachineId) -> MachineRecord {
    store.read(|tx| async move { tx.machine_fetch(id).await }).await.unwrap()
}

pub fn new_release(number: u32) -> NewRelease {
    NewRelease {
        image_ref: format!("nginx:{number}"),
        image_digest: "sha256:00".into(),
        manifest: "app = 'web'\n".into(),
        definition: json!({"app": "web"}),
        machine_configs: BTreeMap::from([("app".to_owned(), MachineConfig::default())]),
        secrets_version: 0,
        strategy: "rolling".into(),
        description: String::new(),
        created_by: "tester".into(),
    }
}

pub async fn create_release(store: &Store, app: &str, number: u32) -> Release {
    let (app, new): (&AppName, _) = (&parsed(app), &new_release(number));
    store.write(|tx| async move { tx.release_create(app, new, NOW).await }).await.unwrap()
}

pub fn keyring(dir: &std::path::Path) -> (Arc<FileKeys>, Keyring) {
    let keys = Arc::new(FileKeys::open_or_create(&dir.join("root.key")).unwrap());
    (keys.clone(), Keyring::new(keys))
}

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

pub async fn a_machines_name_is_unique_while_it_lives(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    let first = record_machine(store, &new_machine("web", "one")).await.unwrap();
    let error = record_machine(store, &new_machine("web", "one")).await.unwrap_err();
    let holder = first.id.to_string();
    assert!(matches!(&error, StoreError::Taken { holder: Some(id), .. } if *id == holder), "{error:?}");
    create_app(store, &new_app("other")).await.unwrap();
    record_machine(store, &new_machine("other", "one")).await.unwrap();

    let id = first.id;
    let early = store.write(|tx| async move { tx.machine_destroyed(id, NOW).await }).await;
    assert_eq!(early.unwrap_err().kind(), ErrorKind::Conflict, "nobody decided that it should go");
    for _ in 0..2 {
        store
            .write(|tx| async move {
                tx.machine_destroy_intend(id, NOW).await?;
                tx.machine_destroyed(id, NOW).await
            })
            .await
            .unwrap();
    }
    let second = record_machine(store, &new_machine("web", "one")).await.unwrap();
    assert_ne!(second.id, first.id);
    assert_ne!(second.private_ip, first.private_ip, "a dead machine's address is not given out again");

    let list = |include_destroyed| async move {
        let filter = &MachineFilter { app: Some(parsed("web")), include_destroyed, ..MachineFilter::default() };
        let page = &PageRequest::default();
        let page = store.read(|tx| async move { tx.machine_list(filter, page).await }).await;
        page.unwrap().items.len()
    };
    assert_eq!((list(false).await, list(true).await), (1, 2));
    let pruned = store.write(|tx| async move { tx.machine_prune(NOW + 1).await }).await;
    assert_eq!((pruned.unwrap(), list(true).await), (1, 1));
}

pub async fn a_repeated_machine_is_the_same_machine(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    let keyed = &NewMachine { idempotency_key: Some("step-1".into()), ..new_machine("web", "one") };
    let record = || store.write(|tx| async move { tx.machine_record(keyed, NOW).await });
    let MachineIntent::New(first) = record().await.unwrap() else { panic!("the first record is new") };
    assert_eq!(record().await.unwrap(), MachineIntent::Repeated(first));

    let chosen = atoll_model::MachineId::from_random(7);
    let planned = &NewMachine { id: Some(chosen), ..new_machine("web", "two") };
    let record = || store.write(|tx| async move { tx.machine_record(planned, NOW).await });
    let MachineIntent::New(first) = record().await.unwrap() else { panic!("the first record is new") };
    assert_eq!(first.id, chosen);
    assert_eq!(record().await.unwrap(), MachineIntent::Repeated(first));
    create_app(store, &new_app("shop")).await.unwrap();
    let foreign = NewMachine { id: Some(chosen), ..new_machine("shop", "one") };
    assert_eq!(record_machine(store, &foreign).await.unwrap_err().kind(), ErrorKind::Conflict);
}

pub async fn addresses_are_never_given_twice(store: &Store) {
    let app = create_app(store, &new_app("web")).await.unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        let network = app.network;
        let address = store.write(|tx| async move { tx.address_allocate(network).await }).await.unwrap();
        assert_eq!(atoll_model::address::network_of(address), Some(network));
        assert!(seen.insert(address), "{address} was given out twice");
    }
}

pub async fn an_update_is_recorded_before_it_is_made(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    enrol(store, &new_node("ams1")).await.unwrap();
    let id = record_machine(store, &new_machine("web", "one")).await.unwrap().id;
    let update = |current: u128, next: u128| {
        let update = MachineUpdate { current_version: Some(version(current)), spec: spec(next) };
        async move {
            let update = &update;
            store.write(|tx| async move { tx.machine_update_intend(id, update, NOW).await }).await
        }
    };
    assert_eq!(update(1, 2).await.unwrap_err().kind(), ErrorKind::Conflict, "the worker does not have it yet");
    store.write(|tx| async move { tx.machine_placed(id, NOW).await }).await.unwrap();
    assert_eq!(update(9, 2).await.unwrap_err().kind(), ErrorKind::Conflict, "a stale version");
    assert_eq!(update(1, 2).await.unwrap().intended.unwrap().version, version(2));
    assert_eq!(update(1, 3).await.unwrap_err().kind(), ErrorKind::Conflict, "one at a time");
    let unsettled = store.read(|tx| async move { tx.machine_unsettled().await }).await.unwrap();
    assert_eq!(unsettled.iter().map(|machine| machine.id).collect::<Vec<_>>(), [id]);

    let settle = |to: u128, applied| {
        store.write(move |tx| async move { tx.machine_update_settle(id, version(to), applied, NOW).await })
    };
    settle(2, false).await.unwrap();
    assert_eq!(machine(store, id).await.spec, spec(1));
    update(1, 3).await.unwrap();
    settle(2, true).await.unwrap();
    assert_eq!(machine(store, id).await.spec, spec(1), "another update's end is not this one's");
    settle(3, true).await.unwrap();
    let now = machine(store, id).await;
    assert_eq!((now.spec, now.intended), (spec(3), None));
}

fn seen(epoch: u64, sequence: u64, state: MachineState) -> Observation {
    Observation { epoch, sequence, version: version(1), state, cordoned: false }
}

async fn observe(store: &Store, id: atoll_model::MachineId, seen: Observation) -> bool {
    let seen = &seen;
    store.write(|tx| async move { tx.machine_observe(id, seen, NOW).await }).await.unwrap()
}

pub async fn observations_are_taken_in_order_and_from_the_current_epoch(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    enrol(store, &new_node("ams1")).await.unwrap();
    let id = record_machine(store, &new_machine("web", "one")).await.unwrap().id;
    assert!(observe(store, id, seen(1, 5, MachineState::Started)).await);
    assert!(!observe(store, id, seen(1, 5, MachineState::Stopped)).await);
    assert!(!observe(store, id, seen(1, 4, MachineState::Stopped)).await);
    assert_eq!(machine(store, id).await.state, MachineState::Started);
    assert!(observe(store, id, seen(2, 1, MachineState::Suspended)).await);
    assert_eq!(machine(store, id).await.state, MachineState::Suspended);
}

pub async fn a_lost_node_loses_its_machines_and_its_voice(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    enrol(store, &new_node("ams1")).await.unwrap();
    enrol(store, &new_node("ams2")).await.unwrap();
    let id = record_machine(store, &new_machine("web", "one")).await.unwrap().id;
    let (node, other): (&NodeName, &NodeName) = (&parsed("ams1"), &parsed("ams2"));
    let remove = || store.write(|tx| async move { tx.node_remove_lost(node, NOW).await });
    let (removed, lost) = remove().await.unwrap();
    assert_eq!((removed.state, removed.epoch, lost), (NodeStatus::Removed, 2, vec![id]));
    assert_eq!(remove().await.unwrap().0.epoch, 2, "removing twice changes nothing");
    assert!(!observe(store, id, seen(1, 9, MachineState::Started)).await, "a fenced node was heard");
    assert_eq!(enrol(store, &new_node("ams1")).await.unwrap_err().kind(), ErrorKind::Taken);

    let region: RegionCode = parsed("nrt");
    store.write(|tx| async move { tx.machine_replace(id, other, region, NOW).await }).await.unwrap();
    let moved = machine(store, id).await;
    assert_eq!((moved.phase, &moved.node), (MachinePhase::Intended, other));
    assert!(observe(store, id, seen(1, 1, MachineState::Started)).await);
}

pub async fn a_node_that_lost_its_records_gets_a_new_epoch(store: &Store) {
    let first = enrol(store, &new_node("ams1")).await.unwrap();
    assert_eq!(first.epoch, 1);
    let back = enrol(store, &NewNode { kept_epoch: Some(1), ..new_node("ams1") }).await.unwrap();
    assert_eq!(back.epoch, 1, "it has its records");
    assert_eq!(enrol(store, &new_node("ams1")).await.unwrap().epoch, 2, "it lost them");
    let stranger = NewNode { key_fingerprint: "another".into(), kept_epoch: Some(2), ..new_node("ams1") };
    assert_eq!(enrol(store, &stranger).await.unwrap_err().kind(), ErrorKind::Taken);
    let rebuilt = NewNode { may_replace_key: true, ..stranger };
    assert_eq!(enrol(store, &rebuilt).await.unwrap().epoch, 3, "a new key cannot have the old records");

    let report = NodeReport {
        epoch: 3,
        backhaul: Some(parsed("192.0.2.1:4282")),
        worker_rpc: Some(parsed("[2001:db8::1]:4281")),
        cpus: 8,
        memory_mb: 8192,
    };
    let name: &NodeName = &parsed("ams1");
    let stale = NodeReport { epoch: 2, ..report.clone() };
    for (report, taken) in [(&report, true), (&stale, false)] {
        let answer = store.write(|tx| async move { tx.node_report(name, report, NOW + 1).await }).await;
        assert_eq!(answer.unwrap(), taken);
    }
    let node = store.read(|tx| async move { tx.node_fetch(name).await }).await.unwrap();
    assert_eq!((node.backhaul, node.cpus, node.last_seen_ms), (report.backhaul, 8, NOW + 1));
}

pub fn join_token() -> NewToken {
    NewToken {
        kind: TokenKind::NodeJoin,
        name: "join".into(),
        org: None,
        app: None,
        region: None,
        node: None,
        created_by: "tester".into(),
        expires_at_ms: Some(NOW + 900_000),
    }
}

pub async fn create_token(store: &Store, hash: TokenHash, new: &NewToken) -> Token {
    store.write(|tx| async move { tx.token_create(&hash, new, NOW).await }).await.unwrap()
}

pub async fn redeem(store: &Store, hash: TokenHash, node: &str, key: &str, now_ms: u64) -> Result<Token, StoreError> {
    let (node, region): (&NodeName, RegionCode) = (&parsed(node), parsed("ams"));
    store.write(|tx| async move { tx.join_token_redeem(&hash, node, region, key, now_ms).await }).await
}

pub async fn a_join_token_admits_one_node(store: &Store) {
    let hash = |number: u8| TokenHash([number; 32]);
    create_token(store, hash(1), &join_token()).await;
    redeem(store, hash(1), "ams1", "key", NOW).await.unwrap();
    redeem(store, hash(1), "ams1", "key", NOW + 1).await.expect("a lost answer may be asked for again");
    let reason = |result: Result<Token, StoreError>| result.unwrap_err().to_string();
    assert!(reason(redeem(store, hash(1), "ams2", "key", NOW).await).contains("used already"));
    assert!(reason(redeem(store, hash(1), "ams1", "other key", NOW).await).contains("used already"));
    assert!(reason(redeem(store, hash(9), "ams1", "key", NOW).await).contains("unknown"));

    create_token(store, hash(2), &join_token()).await;
    assert!(reason(redeem(store, hash(2), "ams1", "key", NOW + 900_000).await).contains("expired"));
    create_token(store, hash(3), &NewToken { region: Some(parsed("nrt")), ..join_token() }).await;
    assert!(reason(redeem(store, hash(3), "ams1", "key", NOW).await).contains("another region"));
    create_token(store, hash(4), &NewToken { node: Some(parsed("ams7")), ..join_token() }).await;
    assert!(reason(redeem(store, hash(4), "ams1", "key", NOW).await).contains("another node"));
    create_token(store, hash(5), &NewToken { kind: TokenKind::Owner, ..join_token() }).await;
    assert!(reason(redeem(store, hash(5), "ams1", "key", NOW).await).contains("unknown"));
}

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

fn map(values: &[(&str, &str)]) -> BTreeMap<String, String> {
    values.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
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

pub async fn tokens_end_when_revoked_or_expired(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    let new = NewToken {
        kind: TokenKind::Deploy,
        org: Some(parsed(DEFAULT_ORGANIZATION)),
        app: Some(parsed("web")),
        ..join_token()
    };
    let token = create_token(store, TokenHash([1; 32]), &new).await;
    assert!(token.is_live(NOW) && !token.is_live(NOW + 900_000));
    assert_eq!(token.app, Some(parsed("web")));
    let id = token.id.as_str();
    for now in [NOW + 1, NOW + 2] {
        store.write(|tx| async move { tx.token_revoke(id, now).await }).await.unwrap();
    }
    let hash = TokenHash([1; 32]);
    let found = store.read(|tx| async move { tx.token_find(&hash).await }).await.unwrap();
    let found = found.unwrap();
    assert_eq!(found.revoked_at_ms, Some(NOW + 1), "the first revocation counts");
    assert!(!found.is_live(NOW + 3));
    let unknown = TokenHash([2; 32]);
    let none = store.read(|tx| async move { tx.token_find(&unknown).await }).await.unwrap();
    assert_eq!(none, None);
}

pub async fn scales_hubs_settings_and_audit_are_kept(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    let (app, edge): (&AppName, &NodeName) = (&parsed("web"), &parsed("ams1"));
    let (ams, nrt): (RegionCode, RegionCode) = (parsed("ams"), parsed("nrt"));
    let entry = &NewAuditEntry {
        actor: "tester".into(),
        action: "app.create".into(),
        target: "app/web".into(),
        outcome: "ok".into(),
        detail: None,
    };
    store
        .write(|tx| async move {
            tx.scale_replace(app, "app", &[(ams, 1), (nrt, 2)]).await?;
            tx.scale_replace(app, "app", &[(nrt, 3)]).await?;
            tx.app_set_regions(app, Some(nrt), &[nrt, ams]).await?;
            tx.app_set_status(app, AppStatus::Deployed).await?;
            tx.setting_ensure("instance", b"one").await?;
            assert_eq!(tx.setting_ensure("instance", b"two").await?, b"one");
            tx.setting_set("ca", b"2").await?;
            for (number, at) in [("a", NOW), ("b", NOW + 1), ("c", NOW + 2)] {
                tx.audit_append(&NewAuditEntry { detail: Some(number.into()), ..entry.clone() }, at).await?;
            }
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
            let page = tx.audit_list(&PageRequest { limit: Some(2), cursor: None }).await?;
            let rest = tx.audit_list(&PageRequest { limit: Some(2), cursor: page.next }).await?;
            let details: Vec<_> =
                page.items.iter().chain(&rest.items).map(|entry| entry.entry.detail.clone()).collect();
            assert_eq!(details, ["c", "b", "a"].map(|text| Some(text.to_owned())));
            assert_eq!(tx.hub_list(NOW + 1).await?.len(), 1);
            let leases = tx.edge_leases(NOW + 60_000).await?;
            assert_eq!((leases.len(), leases[0].hub.as_str()), (1, "hub-2"));
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
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

/// Something of every kind of record.
pub async fn fill(store: &Store, keyring: &Keyring) {
    create_app(store, &new_app("web")).await.unwrap();
    enrol(store, &new_node("ams1")).await.unwrap();
    record_machine(store, &new_machine("web", "one")).await.unwrap();
    change_secrets(store, keyring, &[("A", Some("1"))]).await.unwrap();
    create_token(store, TokenHash([1; 32]), &join_token()).await;
    let release = create_release(store, "web", 1).await.id;
    let lease = &take_deploy(store, &release, "one", NOW).await.unwrap();
    let (app, edge): (&AppName, &NodeName) = (&parsed("web"), &parsed("ams1"));
    let plan = &json!({"steps": []});
    store
        .write(|tx| async move {
            tx.deploy_plan_record(lease, 0, plan).await?;
            tx.deploy_outcome_append(lease, 1, 0, plan, NOW).await?;
            tx.deploy_event_append(lease, plan, NOW).await?;
            tx.setting_set("instance", &[0, 255, 7]).await?;
            tx.scale_set(app, &Scale { process_group: "app".into(), region: parsed("ams"), count: 2 }).await?;
            tx.hub_heartbeat("hub", "192.0.2.1:4281", NOW).await?;
            tx.edge_lease(edge, "hub", NOW).await?;
            let (actor, action, target, outcome) = ("t".into(), "a".into(), "x".into(), "ok".into());
            tx.audit_append(&NewAuditEntry { actor, action, target, outcome, detail: None }, NOW).await
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
