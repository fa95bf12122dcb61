//! Machines on their way to another node.

use super::*;

pub async fn a_move_and_a_deploy_of_an_app_take_turns(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    enrol(store, &new_node("ams1")).await.unwrap();
    enrol(store, &new_node("ams2")).await.unwrap();
    let id = record_machine(store, &new_machine("web", "one")).await.unwrap().id;
    let new = &NewMove {
        machine: id,
        successor: parsed("000000000000ff"),
        node: parsed("ams2"),
        region: parsed("ams"),
        executor: "one".into(),
        leased_until_ms: NOW + 10,
    };
    let begin = |at| store.write(move |tx| async move { tx.move_begin(new, at).await });
    assert_eq!(begin(NOW).await.unwrap_err().kind(), ErrorKind::Conflict, "its worker does not have it yet");
    store.write(|tx| async move { tx.machine_placed(id, NOW).await }).await.unwrap();

    let release = create_release(store, "web", 1).await.id;
    let release = release.as_str();
    assert_eq!(begin(NOW).await.unwrap_err().kind(), ErrorKind::Conflict, "a deploy is under way");
    let run = || store.write(|tx| async move { tx.release_begin(release, NOW).await });
    run().await.unwrap();
    store.write(|tx| async move { tx.release_end(release, ReleaseStatus::Complete, NOW).await }).await.unwrap();

    begin(NOW).await.unwrap();
    assert_eq!(begin(NOW).await.unwrap_err().kind(), ErrorKind::Conflict, "it is under way");
    let second = create_release(store, "web", 2).await.id;
    let second = second.as_str();
    let run = || store.write(|tx| async move { tx.release_begin(second, NOW).await });
    assert_eq!(run().await.unwrap_err().kind(), ErrorKind::Conflict, "a machine is on its way");

    let lease = |who: &'static str, at| store.write(move |tx| async move { tx.move_lease(id, who, at, at + 10).await });
    assert!(!lease("two", NOW).await.unwrap());
    assert!(lease("two", NOW + 10).await.unwrap());
    assert!(!lease("one", NOW + 11).await.unwrap());
    store.write(|tx| async move { tx.move_fail(id, "no room", NOW + 50, NOW).await }).await.unwrap();
    let known = store.read(|tx| async move { tx.move_list().await }).await.unwrap();
    assert_eq!((known.len(), known[0].failed.as_deref()), (1, Some("no room")));
    run().await.unwrap();
    store.write(|tx| async move { tx.release_end(second, ReleaseStatus::Complete, NOW).await }).await.unwrap();
    assert_eq!(begin(NOW + 49).await.unwrap_err().kind(), ErrorKind::Conflict, "too early");
    begin(NOW + 50).await.unwrap();
    store.write(|tx| async move { tx.move_end(id).await }).await.unwrap();
    assert!(store.read(|tx| async move { tx.move_list().await }).await.unwrap().is_empty());
}

/// The only machine is on its way to another node.
pub(super) async fn begin_move(store: &Store) {
    let begun = store.write(|tx| async move {
        let one = tx.machine_list(&MachineFilter::default(), &PageRequest::default()).await?.items.remove(0);
        tx.machine_placed(one.id, NOW).await?;
        let new = NewMove {
            machine: one.id,
            successor: parsed("000000000000ff"),
            node: parsed("ams2"),
            region: one.region,
            executor: "one".into(),
            leased_until_ms: NOW,
        };
        tx.move_begin(&new, NOW).await
    });
    begun.await.unwrap();
}
