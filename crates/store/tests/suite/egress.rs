//! Addresses under which apps' machines leave.

use std::net::IpAddr;

use super::*;

fn given(app: &str, address: &str, at: u64) -> EgressAddress {
    EgressAddress { address: parsed(address), app: parsed(app), region: parsed("ams"), created_at_ms: at }
}

async fn bind(store: &Store, new: EgressAddress) -> Result<(), StoreError> {
    let new = &new;
    store.write(|tx| async move { tx.egress_bind(new).await }).await
}

/// Apps that are not settled; they are afterwards.
async fn unsettled(store: &Store) -> Vec<String> {
    let left = store.read(|tx| async move { tx.policies_unsettled().await }).await.unwrap();
    for unsettled in &left {
        store.write(|tx| async move { tx.policies_settle(unsettled).await }).await.unwrap();
    }
    left.into_iter().map(|left| left.app.to_string()).collect()
}

pub async fn an_egress_address_is_one_apps_until_it_has_rested(store: &Store) {
    create_app(store, &new_app("web")).await.unwrap();
    create_app(store, &new_app("db")).await.unwrap();
    let (four, six) = ("198.51.100.7", "2001:db8::77");
    let first = given("web", six, NOW);
    bind(store, first.clone()).await.unwrap();
    bind(store, given("web", four, NOW + 1)).await.unwrap();
    let (web, db): (&AppName, &AppName) = (&parsed("web"), &parsed("db"));
    let held = store.read(|tx| async move { tx.egress_of(web).await }).await.unwrap();
    assert_eq!(held, [first, given("web", four, NOW + 1)]);
    assert_eq!(unsettled(store).await, ["web"]);
    let error = bind(store, given("db", six, NOW)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("app web"), "{error}");
    assert!(unsettled(store).await.is_empty());

    let address: IpAddr = parsed(six);
    let release = |app| store.write(move |tx| async move { tx.egress_release(app, address, NOW + 10).await });
    assert_eq!(release(db).await.unwrap_err().kind(), ErrorKind::NotFound, "it is another's");
    release(web).await.unwrap();
    assert_eq!(unsettled(store).await, ["web"]);
    assert_eq!(release(web).await.unwrap_err().kind(), ErrorKind::NotFound);
    let early = bind(store, given("db", six, NOW + 9)).await.unwrap_err();
    assert!(early.to_string().contains("rests"), "{early}");
    bind(store, given("db", six, NOW + 10)).await.unwrap();

    // What an app still has when it goes rests as well.
    let gone = store.write(|tx| async move {
        tx.addresses_release(web, NOW + 20).await?;
        tx.app_delete(web).await
    });
    gone.await.unwrap();
    let early = bind(store, given("db", four, NOW + 19)).await.unwrap_err();
    assert!(early.to_string().contains("rests"), "{early}");
    bind(store, given("db", four, NOW + 20)).await.unwrap();
}

pub async fn apps_are_not_settled_when_a_server_has_other_egress_addresses(store: &Store) {
    enrol(store, &new_node("ams1")).await.unwrap();
    for (app, address) in [("web", "198.51.100.7"), ("db", "198.51.100.8"), ("queue", "198.51.100.9")] {
        create_app(store, &new_app(app)).await.unwrap();
        bind(store, given(app, address, NOW)).await.unwrap();
    }
    unsettled(store).await;
    let enter = async |addresses: &[&str]| {
        let egress_addresses = addresses.iter().map(|address| parsed(address)).collect();
        let (name, network) = (&parsed("ams1"), &NodeNetwork { egress_addresses, ..NodeNetwork::default() });
        store.write(|tx| async move { tx.node_set_network(name, network, NOW).await }).await.unwrap();
        unsettled(store).await
    };
    assert_eq!(enter(&["198.51.100.7", "198.51.100.1"]).await, ["web"]);
    assert!(enter(&["198.51.100.7", "198.51.100.1"]).await.is_empty());
    assert_eq!(enter(&["198.51.100.8"]).await, ["db", "web"]);
}
