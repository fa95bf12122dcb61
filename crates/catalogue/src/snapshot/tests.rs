use std::collections::BTreeMap;

use atoll_model::address::NetworkId;
use atoll_model::row::{ChallengeRow, RowKey, ServiceRow};
use atoll_model::{MachineState, MachineVersion};
use proptest::prelude::*;

use super::*;

fn app(name: &str, hostnames: &[&str], addresses: &[&str]) -> Row {
    Row::App(AppRow {
        name: name.parse().unwrap(),
        org: "acme".parse().unwrap(),
        network: NetworkId(1),
        primary_region: None,
        hostnames: hostnames.iter().map(|host| host.to_string()).collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    })
}

fn services(port: u16) -> Arc<[ServiceRow]> {
    let service = serde_json::from_value(serde_json::json!({ "internal_port": port })).unwrap();
    Arc::new([service])
}

fn machine(id: u64, app: &str, port: u16) -> Row {
    Row::Machine(MachineRow {
        id: MachineId::from_random(id),
        app: app.parse().unwrap(),
        network: NetworkId(1),
        node: "ams1".parse().unwrap(),
        region: "ams".parse().unwrap(),
        version: MachineVersion::from_parts(1, 1),
        state: MachineState::Started,
        cordoned: false,
        private_ipv4: [172, 19, 0, 2].into(),
        private_ipv6: "fdaa:0:1::2".parse().unwrap(),
        process_group: "app".into(),
        services: services(port),
        changed_at_ms: 0,
        metadata: Default::default(),
        skip_dns: false,
    })
}

fn certificate(host: &str) -> Row {
    Row::Certificate(CertificateRow {
        host: host.into(),
        chain_pem: String::new(),
        key_pem: String::new(),
        not_after: 0,
    })
}

fn device(name: &str, network: u32, address: &str) -> Row {
    Row::Device(DeviceRow {
        name: name.parse().unwrap(),
        org: "acme".parse().unwrap(),
        network: NetworkId(network),
        address: address.parse().unwrap(),
        public_key: "a key".into(),
        gateway: "ams1".parse().unwrap(),
    })
}

#[test]
fn devices_are_found_by_network_and_address_until_they_go() {
    let phone = "fdaa:0:1::8:2".parse().unwrap();
    let mut editor = Editor::default();
    editor.put(device("phone", 1, "fdaa:0:1::8:2"));
    editor.put(device("laptop", 1, "fdaa:0:1::7:2"));
    editor.put(device("laptop", 2, "fdaa:0:2::7:2"));
    // Under another name.
    editor.put(device("tablet", 1, "fdaa:0:1::8:2"));
    let view = editor.view();
    let names = |view: &Snapshot, network| -> Vec<String> {
        view.devices_in(NetworkId(network)).iter().map(|row| row.name.to_string()).collect()
    };
    assert_eq!((names(view, 1), names(view, 2)), (vec!["laptop".into(), "tablet".into()], vec!["laptop".into()]));
    assert_eq!(view.device_by_address(phone).unwrap().name.as_str(), "tablet");
    editor.remove(&RowKey::Device(phone));
    editor.remove(&RowKey::Device("fdaa:0:2::7:2".parse().unwrap()));
    assert_eq!(names(editor.view(), 1), ["laptop"]);
    assert!(editor.view().devices_in(NetworkId(2)).is_empty() && editor.view().device_by_address(phone).is_none());
}

#[test]
fn a_challenge_is_found_by_its_host_until_it_goes() {
    let challenge = |values: &[&str]| {
        let values = values.iter().map(|value| value.to_string()).collect();
        Row::Challenge(ChallengeRow { host: "a.shop.example".into(), values })
    };
    let mut editor = Editor::default();
    editor.put(challenge(&["one"]));
    editor.put(challenge(&["one", "two"]));
    assert_eq!(editor.view().challenge("a.shop.example").unwrap().values, ["one", "two"]);
    assert!(editor.view().has_hostname_below("a.shop.example") && editor.view().has_hostname_below("shop.example"));
    editor.remove(&RowKey::Challenge("a.shop.example".into()));
    editor.remove(&RowKey::Challenge("a.shop.example".into()));
    assert!(editor.view().challenge("a.shop.example").is_none());
    assert!(!editor.view().has_hostname_below("a.shop.example") && !editor.view().has_hostname_below("example"));
}

fn name_of(app: Option<&Arc<AppRow>>) -> Option<&str> {
    app.map(|row| row.name.as_str())
}

#[test]
fn an_app_is_found_by_name_custom_host_and_address() {
    let view = Snapshot::from_rows([app("web", &["www.example.org", "*.shop.example"], &["2001:db8::1"])]);
    assert_eq!(name_of(view.app(&"web".parse().unwrap())), Some("web"));
    assert_eq!(name_of(view.app_by_hostname("www.example.org")), Some("web"));
    assert_eq!(name_of(view.app_by_hostname("a.shop.example")), Some("web"));
    assert_eq!(name_of(view.app_by_hostname("a.b.shop.example")), None);
    assert_eq!(name_of(view.app_by_hostname("shop.example")), None);
    assert_eq!(name_of(view.app_by_address("2001:db8::1".parse().unwrap())), Some("web"));
    assert_eq!(name_of(view.app_by_address("2001:db8::2".parse().unwrap())), None);
}

#[test]
fn an_app_that_gives_up_a_host_is_no_longer_found_by_it() {
    let mut editor = Editor::default();
    editor.put(app("web", &["old.example"], &["2001:db8::1"]));
    editor.put(app("web", &["new.example"], &[]));
    assert_eq!(name_of(editor.view().app_by_hostname("old.example")), None);
    assert_eq!(name_of(editor.view().app_by_hostname("new.example")), Some("web"));
    assert_eq!(name_of(editor.view().app_by_address("2001:db8::1".parse().unwrap())), None);
}

#[test]
fn names_above_host_names_are_known_while_any_lies_below() {
    let mut editor = Editor::default();
    editor.put(app("web", &["a.b.shop.example", "*.shop.example"], &[]));
    for above in ["b.shop.example", "shop.example", "example"] {
        assert!(editor.view().has_hostname_below(above), "{above}");
    }
    assert!(!editor.view().has_hostname_below("a.b.shop.example"));
    editor.put(app("web", &["*.shop.example"], &[]));
    assert!(!editor.view().has_hostname_below("b.shop.example"));
    assert!(editor.view().has_hostname_below("shop.example"));
    editor.remove(&RowKey::App("web".parse().unwrap()));
    assert!(!editor.view().has_hostname_below("example"));
}

#[test]
fn apps_are_listed_by_network_and_machines_found_by_address() {
    let mut editor = Editor::default();
    editor.put(app("web", &[], &[]));
    editor.put(app("api", &[], &[]));
    let names =
        |editor: &Editor| editor.view().apps_in(NetworkId(1)).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&editor), ["api", "web"]);
    editor.remove(&RowKey::App("api".parse().unwrap()));
    assert_eq!(names(&editor), ["web"]);
    assert!(editor.view().apps_in(NetworkId(2)).is_empty());

    editor.put(machine(7, "web", 80));
    let address = "fdaa:0:1::2".parse().unwrap();
    let found = |editor: &Editor| editor.view().machine_by_address(address).map(|row| row.id);
    assert_eq!(found(&editor), Some(MachineId::from_random(7)));
    editor.put(machine(8, "web", 80));
    editor.remove(&RowKey::Machine(MachineId::from_random(7)));
    assert_eq!(found(&editor), Some(MachineId::from_random(8)));
    editor.remove(&RowKey::Machine(MachineId::from_random(8)));
    assert_eq!(found(&editor), None);
}

#[test]
fn a_host_claimed_twice_goes_to_the_same_app_in_any_order_and_to_the_other_when_freed() {
    let (first, second) = (app("a", &["x.example"], &[]), app("b", &["x.example"], &[]));
    for rows in [[first.clone(), second.clone()], [second, first]] {
        let mut editor = Editor::default();
        rows.into_iter().for_each(|row| editor.put(row));
        assert_eq!(name_of(editor.view().app_by_hostname("x.example")), Some("a"));
        editor.remove(&RowKey::App("a".parse().unwrap()));
        assert_eq!(name_of(editor.view().app_by_hostname("x.example")), Some("b"));
    }
}

#[test]
fn the_exact_certificate_goes_before_the_wildcard() {
    let view = Snapshot::from_rows([certificate("*.example.org"), certificate("www.example.org")]);
    let host = |name: &str| view.certificate_for(name).map(|row| row.host.to_string());
    assert_eq!(host("www.example.org").as_deref(), Some("www.example.org"));
    assert_eq!(host("api.example.org").as_deref(), Some("*.example.org"));
    assert_eq!(host("example.org"), None);
    assert_eq!(host("a.b.example.org"), None);
    assert_eq!(view.certificates().count(), 2);
}

#[test]
fn a_published_view_does_not_change() {
    let mut editor = Editor::default();
    editor.put(machine(1, "web", 80));
    let before = editor.view().clone();
    editor.put(machine(2, "web", 80));
    editor.remove(&RowKey::Machine(MachineId::from_random(1)));

    let ids = |view: &Snapshot| view.machines_of(&"web".parse().unwrap()).iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids(&before), [MachineId::from_random(1)]);
    assert_eq!(ids(editor.view()), [MachineId::from_random(2)]);
    assert_eq!((before.machine_count(), editor.view().machine_count()), (1, 1));
}

#[test]
fn equal_services_and_names_are_stored_once() {
    let view = Snapshot::from_rows([machine(1, "web", 80), machine(2, "web", 80), machine(3, "web", 81)]);
    let [one, two, three] = view.machines_of(&"web".parse().unwrap()) else { panic!("three machines") };
    assert!(Arc::ptr_eq(&one.services, &two.services));
    assert!(!Arc::ptr_eq(&one.services, &three.services));
    assert_eq!(one.app.as_str().as_ptr(), three.app.as_str().as_ptr());
}

proptest! {
    /// Whatever was put and removed before, the view equals one made of the rows that are left.
    #[test]
    fn edits_end_where_a_fresh_build_does(edits in prop::collection::vec((0u64..12, 0u8..3, 0u16..3, any::<bool>()), 0..80)) {
        let mut editor = Editor::default();
        let mut model = BTreeMap::new();
        for (id, app_number, port, put) in edits {
            let row = if id < 6 {
                machine(id, &format!("app{app_number}"), port + 1)
            } else {
                app(&format!("app{id}"), &[&format!("h{port}.example")], &[&format!("10.0.0.{app_number}")])
            };
            if put {
                model.insert(row.key(), row.clone());
                editor.put(row);
            } else {
                model.remove(&row.key());
                editor.remove(&row.key());
            }
        }
        let fresh = Snapshot::from_rows(model.into_values());
        let edited = editor.view();
        prop_assert_eq!(edited.machine_count(), fresh.machine_count());
        for id in (0..6).map(MachineId::from_random) {
            prop_assert_eq!(edited.machine(&id), fresh.machine(&id));
        }
        for name in (0..12).map(|n| format!("app{n}").parse::<AppName>().unwrap()) {
            prop_assert_eq!(edited.machines_of(&name), fresh.machines_of(&name));
            prop_assert_eq!(edited.app(&name), fresh.app(&name));
        }
        for n in 0..3 {
            prop_assert_eq!(edited.app_by_hostname(&format!("h{n}.example")), fresh.app_by_hostname(&format!("h{n}.example")));
            prop_assert_eq!(edited.app_by_address([10, 0, 0, n].into()), fresh.app_by_address([10, 0, 0, n].into()));
        }
    }
}
