//! Nodes: loss, return, epochs.

use super::*;

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
    let new = &NewMove {
        machine: id,
        successor: id,
        node: other.clone(),
        region,
        executor: "one".into(),
        leased_until_ms: NOW,
    };
    store.write(|tx| async move { tx.move_begin(new, NOW).await }).await.unwrap();
    let moved = machine(store, id).await;
    assert_eq!((moved.phase, &moved.node), (MachinePhase::Intended, other));
    store.write(|tx| async move { tx.move_fail(id, "no room", NOW, NOW).await }).await.unwrap();
    assert_eq!(machine(store, id).await.phase, MachinePhase::Lost);
    store.write(|tx| async move { tx.move_begin(new, NOW).await }).await.unwrap();
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

pub async fn no_two_nodes_have_the_same_mesh_key(store: &Store) {
    for name in ["ams1", "nrt1"] {
        enrol(store, &new_node(name)).await.unwrap();
    }
    let gateway = Some(NodeGateway { public_key: "three".to_owned(), port: 51821, websocket_port: 443 });
    let enter = async |name: &str, key: &str, port| {
        let mesh = Some(NodeMesh { public_key: key.to_owned(), port, rpc_port: Some(4285) });
        let public_addresses = vec![parsed("192.0.2.1"), parsed("2001:db8::1")];
        let zones = vec!["apps.test".to_owned(), "customer.example".to_owned()];
        let egress_addresses = vec![parsed("198.51.100.7"), parsed("2001:db8::77")];
        let network = &NodeNetwork { mesh, gateway: gateway.clone(), public_addresses, egress_addresses, zones };
        let name = &parsed::<NodeName>(name);
        let node = store.write(|tx| async move { tx.node_set_network(name, network, NOW).await }).await?;
        assert_eq!(node.network, *network);
        Ok::<_, StoreError>(())
    };
    enter("ams1", "one", 51820).await.unwrap();
    assert_eq!(enter("nrt1", "one", 51820).await.unwrap_err().kind(), ErrorKind::Taken);
    enter("ams1", "one", 4000).await.expect("its own it may repeat");
    enter("ams1", "two", 4000).await.unwrap();
    enter("nrt1", "one", 51820).await.unwrap();

    let name = &parsed::<NodeName>("ams1");
    let none = &NodeNetwork::default();
    let node = store.write(|tx| async move { tx.node_set_network(name, none, NOW).await }).await.unwrap();
    assert_eq!(node.network, *none);
}
