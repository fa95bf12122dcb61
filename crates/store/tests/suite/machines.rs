//! Machines as intents, and what workers report of them.

use super::*;

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

pub async fn machines_are_listed_by_their_last_change(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    enrol(store, &new_node("ams1")).await.unwrap();
    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        ids.push(record_machine(store, &new_machine("web", name)).await.unwrap().id);
    }
    // The first is heard of last; the others keep one moment, which their ids put in order.
    let (first, heard) = (ids[0], &seen(1, 1, MachineState::Started));
    assert!(store.write(|tx| async move { tx.machine_observe(first, heard, NOW + 5).await }).await.unwrap());
    ids[1..].sort();
    let expected = [ids[1], ids[2], first];

    let org: &OrgSlug = &parsed(DEFAULT_ORGANIZATION);
    let list = |after_ms: u64, page: PageRequest| async move {
        let page = &page;
        store.read(|tx| async move { tx.machine_changes(org, false, after_ms, page).await }).await.unwrap()
    };
    let mut listed = Vec::new();
    let mut request = PageRequest { limit: Some(1), cursor: None };
    loop {
        let page = list(0, request.clone()).await;
        listed.extend(page.items.iter().map(|machine| machine.id));
        match page.next {
            // A cursor counts, whatever is asked beside it.
            next @ Some(_) => request.cursor = next,
            None => break,
        }
    }
    assert_eq!(listed, expected);
    let later = list(NOW, PageRequest::default()).await;
    assert_eq!(later.items.iter().map(|machine| machine.id).collect::<Vec<_>>(), [first]);
    assert!(list(NOW + 5, PageRequest::default()).await.items.is_empty());
}

pub async fn a_machine_made_after_the_backup_is_taken_back(store: &Store) {
    let app = create_app(store, &new_app("web")).await.unwrap();
    enrol(store, &new_node("ams1")).await.unwrap();
    let known = record_machine(store, &new_machine("web", "one")).await.unwrap();
    let release = create_release(store, "web", 1).await;
    let id = &release.id;
    let complete = store.write(|tx| async move {
        tx.release_begin(id, NOW).await?;
        tx.release_end(id, ReleaseStatus::Complete, NOW).await
    });
    complete.await.unwrap();

    let address = |number| atoll_model::address::machine_address(app.network, 0, number);
    let id = atoll_model::MachineId::from_random(7);
    let mut machine_made = NewMachine { id: Some(id), ..new_machine("web", "two") };
    // Of a release and with secrets that were made after the backup, too.
    machine_made.spec.config.metadata.insert("fly_release_version".into(), "9".into());
    machine_made.spec.secrets_version = 9;
    let (private_ip, state, created_at_ms) = (address(9), MachineState::Started, NOW - 5);
    let found = FoundMachine { machine: machine_made, private_ip, state, created_at_ms };
    let take_back = |found: FoundMachine| async move {
        let found = &found;
        store.write(|tx| async move { tx.machine_take_back(found, NOW).await }).await
    };
    let named = |name: &str| NewMachine { name: name.into(), ..found.machine.clone() };
    for (refused, kind) in [
        (FoundMachine { machine: named("one"), ..found.clone() }, ErrorKind::Taken),
        (FoundMachine { private_ip: known.private_ip, ..found.clone() }, ErrorKind::Taken),
        (FoundMachine { private_ip: parsed("fdaa:0:ffff::2"), ..found.clone() }, ErrorKind::Conflict),
        (
            FoundMachine { machine: NewMachine { app: parsed("gone"), ..found.machine.clone() }, ..found.clone() },
            ErrorKind::NotFound,
        ),
    ] {
        assert_eq!(take_back(refused.clone()).await.unwrap_err().kind(), kind, "{refused:?}");
    }
    let recorded = || store.read(|tx| async move { tx.machines_recorded(&[id, known.id]).await });
    assert_eq!(recorded().await.unwrap(), [known.id].into(), "a refused one is not recorded");

    take_back(found.clone()).await.unwrap();
    let record = machine(store, id).await;
    assert_eq!((record.phase, record.state, record.private_ip), (MachinePhase::Placed, state, private_ip));
    assert_eq!((record.created_at_ms, record.spec.version), (created_at_ms, found.machine.spec.version));
    assert_eq!((record.spec.release_version, record.spec.secrets_version), (Some(release.version), 0));
    assert_eq!(recorded().await.unwrap(), [id, known.id].into());
    assert!(observe(store, id, seen(1, 1, MachineState::Stopped)).await, "its worker is heard");
    take_back(found).await.unwrap();
    assert_eq!(machine(store, id).await.state, MachineState::Stopped, "one that is known stays as it is");
}

pub async fn a_restore_gives_out_no_address_that_may_be_in_use(store: &Store) {
    let app = create_app(store, &new_app("web")).await.unwrap();
    let org = &app.org;
    let next = async |network: &'static str| {
        let given = store.write(|tx| async move {
            let address = tx.address_allocate(app.network).await?;
            Ok::<_, StoreError>((tx.network_ensure(org, network, NOW).await?.id, address))
        });
        given.await.unwrap()
    };
    let (network, address) = next("before").await;
    store.write(|tx| async move { tx.networks_skip_given().await }).await.unwrap();
    let (network_after, address_after) = next("after").await;
    assert!(network_after.0 - network.0 > 1 << 16, "{network} and then {network_after}");
    // A machine's number begins above the 16 bits that are its own.
    let skipped = (address_after.to_bits() - address.to_bits()) >> 16;
    assert!(skipped > 1 << 20, "{address} and then {address_after}");
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
