use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use atoll_catalogue::Snapshot;
use atoll_model::address::{NetworkId, machine_address, network_of};
use atoll_model::reach::{Path, Reachability};
use atoll_model::row::{AppRow, DeviceRow, MachineRow};
use atoll_model::{MachineId, MachineState, MachineVersion, Row};
use proptest::prelude::*;

use super::*;
use crate::serve::{Next, Now, handle};
use crate::wire::{Name, Query, Records, Transport, Type};

const ACME: NetworkId = NetworkId(0x18);
const OTHER: NetworkId = NetworkId(0x99);

fn app(name: &str, network: NetworkId, addresses: &[&str]) -> Row {
    Row::App(AppRow {
        name: name.parse().unwrap(),
        org: "acme".parse().unwrap(),
        network,
        primary_region: None,
        hostnames: Vec::new(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    })
}

fn machine(number: u32, app: &str, network: NetworkId, region: &str) -> MachineRow {
    MachineRow {
        id: MachineId::from_random(u64::from(number)),
        app: app.parse().unwrap(),
        network,
        node: format!("{region}1").parse().unwrap(),
        region: region.parse().unwrap(),
        version: MachineVersion::from_parts(1, 1),
        state: MachineState::Started,
        cordoned: false,
        private_ipv4: [172, 19, 0, 2].into(),
        private_ipv6: address(network, number),
        process_group: "app".into(),
        services: Arc::default(),
        changed_at_ms: 0,
        metadata: Arc::default(),
        skip_dns: false,
    }
}

fn address(network: NetworkId, number: u32) -> Ipv6Addr {
    machine_address(network, 1, number)
}

fn device(name: &str, network: NetworkId, number: u32) -> Row {
    Row::Device(DeviceRow {
        name: name.parse().unwrap(),
        org: "acme".parse().unwrap(),
        network,
        address: address(network, number),
        public_key: String::new(),
        gateway: "ams1".parse().unwrap(),
    })
}

fn view(rows: impl IntoIterator<Item = Row>) -> View {
    View {
        catalogue: Snapshot::from_rows(rows.into_iter().chain([
            device("laptop", ACME, 900),
            device("interactive-7", ACME, 901),
            device("desk", OTHER, 902),
        ])),
        reach: Arc::default(),
        here: Here { node: "ams1".parse().unwrap(), region: "ams".parse().unwrap() },
        api: Some("fdaa::4".parse().unwrap()),
    }
}

/// Acme has `web` in Amsterdam, Tokyo and Chicago, an idle `api`, and a neighbour.
fn world() -> View {
    let machine_in = |number, region| machine(number, "web", ACME, region);
    let worker = MachineRow { process_group: "worker".into(), ..machine_in(2, "nrt") };
    let blue = MachineRow { metadata: Arc::new([("color".into(), "Blue".into())]), ..machine_in(3, "ord") };
    let stopped = MachineRow { state: MachineState::Stopped, ..machine_in(4, "fra") };
    let hidden = MachineRow { skip_dns: true, ..machine_in(5, "ams") };
    let idle = MachineRow { state: MachineState::Suspended, ..machine(6, "api", ACME, "ams") };
    let machines = [machine_in(1, "ams"), worker, blue, stopped, hidden, idle, machine(7, "theirs", OTHER, "ams")];
    view(machines.map(Row::Machine).into_iter().chain([
        app("web", ACME, &["fdaa:0:18:0:1::5", "192.0.2.7"]),
        app("api", ACME, &["fdaa:0:99:0:1::6"]),
        app("theirs", OTHER, &[]),
        app("empty", ACME, &[]),
    ]))
}

fn ask(view: &View, name: &str, kind: Type) -> Answer {
    answer(view, ACME, &name.parse().unwrap(), kind, 0)
}

fn machines(numbers: impl IntoIterator<Item = u32>) -> Answer {
    Answer::Addresses(numbers.into_iter().map(|number| address(ACME, number)).collect())
}

fn text(text: &str) -> Answer {
    Answer::Text(text.into())
}

#[test]
fn each_form_gives_the_started_machines_it_means() {
    let view = world();
    for (name, numbers) in [
        ("web.internal", &[1, 2, 3][..]),
        ("WEB.Internal", &[1, 2, 3]),
        ("global.web.internal", &[1, 2, 3]),
        ("nrt.web.internal", &[2]),
        ("worker.process.web.internal", &[2]),
        ("app.process.web.internal", &[1, 3]),
        ("00000000000003.vm.web.internal", &[3]),
        ("blue.color.kv._metadata.web.internal", &[3]),
        ("top1.nearest.of.web.internal", &[1]),
        ("top2.nearest.of.web.internal", &[1, 3]),
        ("top99.nearest.of.web.internal", &[1, 3, 2]),
    ] {
        assert_eq!(ask(&view, name, Type::AAAA), machines(numbers.iter().copied()), "{name}");
    }
}

#[test]
fn lists_are_texts() {
    let view = world();
    for (name, list) in [
        ("vms.web.internal", "00000000000001 ams,00000000000002 nrt,00000000000003 ord"),
        ("all.vms.web.internal", "00000000000001 ams,00000000000002 nrt,00000000000003 ord,00000000000004 fra"),
        ("regions.web.internal", "ams,nrt,ord"),
        ("all.regions.web.internal", "ams,fra,nrt,ord"),
        ("vms.api.internal", ""),
        ("_apps.internal", "api,empty,web"),
        ("_peer.internal", "laptop"),
    ] {
        assert_eq!(ask(&view, name, Type::TXT), text(list), "{name}");
    }
    let Answer::Text(instances) = ask(&view, "_instances.internal", Type::TXT) else { panic!("no text") };
    assert_eq!(instances.split(';').count(), 3);
    assert!(instances.starts_with("instance=00000000000001,app=web,ip=fdaa:0:18:0:1:0:1:2,region=ams;"), "{instances}");
    let Answer::Text(all) = ask(&view, "all._instances.internal", Type::TXT) else { panic!("no text") };
    assert_eq!(all.split(';').count(), 5);
}

#[test]
fn what_exists_without_such_data_differs_from_what_does_not_exist() {
    let view = world();
    for name in [
        "internal",
        "flycast",
        "web.internal",
        "vm.web.internal",
        "nearest.of.web.internal",
        "_apps.internal",
        "nrt.web.internal",
        "web.flycast",
        "laptop._peer.internal",
    ] {
        assert_eq!(ask(&view, name, Type::A), Answer::NoData, "{name}");
    }
    for name in [
        "api.internal",
        "empty.internal",
        "fra.web.internal",
        "00000000000004.vm.web.internal",
        "top1.nearest.of.api.internal",
        "_apps.internal",
    ] {
        assert_eq!(ask(&view, name, Type::AAAA), Answer::NoData, "{name}");
    }
    for name in [
        "nobody.internal",
        "lhr.web.internal",
        "lost.process.web.internal",
        "red.color.kv._metadata.web.internal",
        "00000000000005.vm.web.internal",
        "a.b.c.d.e.f.g.h.internal",
        "_nothing.internal",
        "empty.flycast",
        "a.web.flycast",
        "ghost._peer.internal",
    ] {
        assert_eq!(ask(&view, name, Type::AAAA), Answer::NoSuchName, "{name}");
    }
    assert_eq!(ask(&view, "example.org", Type::AAAA), Answer::Elsewhere);
}

#[test]
fn another_network_s_names_are_as_if_they_did_not_exist() {
    let view = world();
    for name in ["theirs.internal", "vms.theirs.internal", "theirs.flycast", "desk._peer.internal", "api.flycast"] {
        assert_eq!(ask(&view, name, Type::ANY), Answer::NoSuchName, "{name}");
    }
    // The address is entered from the network that it was allocated on, and from there alone.
    let entered = answer(&view, OTHER, &"api.flycast".parse().unwrap(), Type::AAAA, 0);
    assert_eq!(entered, Answer::Addresses(vec!["fdaa:0:99:0:1::6".parse().unwrap()]));
    assert_eq!(ask(&view, "web.flycast", Type::AAAA), Answer::Addresses(vec!["fdaa:0:18:0:1::5".parse().unwrap()]));
    assert_eq!(answer(&view, OTHER, &"_apps.internal".parse().unwrap(), Type::TXT, 0), text("theirs"));
    assert_eq!(ask(&view, "_api.internal", Type::AAAA), Answer::Addresses(vec!["fdaa::4".parse().unwrap()]));
}

fn reverse_name(address: Ipv6Addr) -> String {
    let digits: Vec<String> = format!("{:032x}", address.to_bits()).chars().rev().map(String::from).collect();
    format!("{}.ip6.arpa", digits.join("."))
}

#[test]
fn addresses_of_the_own_network_have_names() {
    let view = world();
    for (address, name) in [
        (address(ACME, 1), "00000000000001.vm.web.internal"),
        (address(ACME, 900), "laptop._peer.internal"),
        ("fdaa:0:18:0:1::5".parse().unwrap(), "web.flycast"),
        ("fdaa::3".parse().unwrap(), "_dns.internal"),
    ] {
        let pointer = Answer::Pointer(Box::new(name.parse().unwrap()));
        assert_eq!(ask(&view, &reverse_name(address), Type::PTR), pointer, "{address}");
        assert_eq!(ask(&view, &reverse_name(address), Type::AAAA), Answer::NoData);
    }
    for address in [address(OTHER, 7), address(ACME, 5), address(ACME, 77), "fdaa:0:99:0:1::6".parse().unwrap()] {
        assert_eq!(ask(&view, &reverse_name(address), Type::PTR), Answer::NoSuchName, "{address}");
    }
    assert_eq!(ask(&view, &reverse_name("2001:db8::1".parse().unwrap()), Type::PTR), Answer::Elsewhere);
    assert_eq!(ask(&view, "8.1.0.0.0.0.0.0.a.a.d.f.ip6.arpa", Type::PTR), Answer::NoData);
    let longer = format!("1.{}", reverse_name(address(ACME, 1)));
    for nobody in [&longer, "g.a.a.d.f.ip6.arpa", "12.a.a.d.f.ip6.arpa"] {
        assert_eq!(ask(&view, nobody, Type::PTR), Answer::NoSuchName, "{nobody}: it is never asked upstream");
    }
    assert_eq!(ask(&view, "d.f.ip6.arpa", Type::PTR), Answer::Elsewhere);
}

#[test]
fn measured_round_trips_decide_what_is_near_and_who_is_left_out() {
    let mut view = world();
    let path = |ms, reachable| Path { round_trip: Duration::from_millis(ms), loss: 0.0, reachable };
    let reach = |nrt, ord| Reachability {
        paths: HashMap::from([("nrt1".parse().unwrap(), nrt), ("ord1".parse().unwrap(), ord)]),
    };
    view.reach = Arc::new(reach(path(20, true), path(90, true)));
    assert_eq!(ask(&view, "top3.nearest.of.web.internal", Type::AAAA), machines([1, 2, 3]));
    view.reach = Arc::new(reach(path(20, false), path(90, true)));
    assert_eq!(ask(&view, "web.internal", Type::AAAA), machines([1, 3]));
    // Where nothing else is left, an address that may be lost is better than none.
    assert_eq!(ask(&view, "nrt.web.internal", Type::AAAA), machines([2]));
}

#[test]
fn lists_of_addresses_begin_elsewhere_each_turn() {
    let view = world();
    let firsts = (0..3).map(|turn| answer(&view, ACME, &"web.internal".parse().unwrap(), Type::AAAA, turn));
    let expected = [[1, 2, 3], [2, 3, 1], [3, 1, 2]].map(machines);
    assert!(firsts.eq(expected));
}

/// Asks over the wire; the answer's bytes.
fn asked(internal: &Internal, name: &Name, kind: u16, id: u16, from: IpAddr, transport: Transport) -> Vec<u8> {
    let mut message = [id.to_be_bytes(), [1, 0], [0, 1], [0; 2], [0; 2], [0; 2]].concat();
    message.extend(name.wire());
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    let mut out = Vec::new();
    let next = handle(internal, &message, from, transport, Now::read(), &mut out);
    assert!(matches!(next, Some(Next::Reply)));
    assert!(out.len() <= Query::read(&message).unwrap().limit(transport));
    out
}

fn code(answer: &[u8]) -> u8 {
    answer[3] & 0xf
}

#[test]
fn a_large_answer_is_cut_over_udp_and_whole_over_tcp() {
    let rows = (0..200).map(|number| Row::Machine(machine(number, "web", ACME, "ams")));
    let internal = Internal::new(view(rows.chain([app("web", ACME, &[])])), None);
    let name = "web.internal".parse().unwrap();
    let from = address(ACME, 1).into();
    let cut = asked(&internal, &name, Type::AAAA.0, 1, from, Transport::Udp);
    assert_eq!((cut[2] & 2, cut[7]), (2, 17), "truncated after as many addresses as fit");
    let whole = asked(&internal, &name, Type::AAAA.0, 1, from, Transport::Tcp);
    assert_eq!((whole[2] & 2, whole[7]), (0, 200));
    let list = asked(&internal, &"vms.web.internal".parse().unwrap(), Type::TXT.0, 1, from, Transport::Tcp);
    let records: Vec<_> = Records::new(&list, 12 + 18 + 4, 1).map(Result::unwrap).collect();
    assert!(records[0].data.len() > 200 * 18);
}

#[test]
fn only_callers_of_a_network_are_answered_and_other_names_are_refused_without_recursion() {
    let internal = Internal::new(world(), None);
    let web = "web.internal".parse().unwrap();
    for stranger in ["192.0.2.1", "2001:db8::1", "::1"] {
        let answer = asked(&internal, &web, Type::AAAA.0, 1, stranger.parse().unwrap(), Transport::Udp);
        assert_eq!((code(&answer), answer[7]), (5, 0), "{stranger}");
    }
    let from = address(ACME, 1).into();
    assert_eq!(code(&asked(&internal, &"example.org".parse().unwrap(), 1, 1, from, Transport::Udp)), 5);
    let missing = asked(&internal, &"nobody.internal".parse().unwrap(), 28, 1, from, Transport::Udp);
    assert_eq!((code(&missing), missing[9]), (3, 1), "with the start of authority");
    let own = asked(&internal, &web, 28, 1, address(ACME, 1).into(), Transport::Udp);
    assert_eq!((code(&own), own[7], own[2] & 4), (0, 3, 4));
}

/// Names made of what real ones are made of, and of anything.
fn names() -> impl Strategy<Value = Name> {
    let part = prop_oneof![
        Just("web"),
        Just("theirs"),
        Just("api"),
        Just("internal"),
        Just("flycast"),
        Just("_apps"),
        Just("_peer"),
        Just("_instances"),
        Just("all"),
        Just("vms"),
        Just("vm"),
        Just("process"),
        Just("kv"),
        Just("_metadata"),
        Just("nearest"),
        Just("of"),
        Just("top2"),
        Just("regions"),
        Just("color"),
        Just("blue"),
        Just("ams"),
        Just("00000000000001"),
        Just("00000000000007"),
        Just("desk"),
        Just("laptop"),
        Just("_api"),
        Just("ip6"),
        Just("arpa"),
        Just("f"),
        Just("a"),
        Just("0"),
    ];
    let bytes = proptest::collection::vec(any::<u8>(), 1..20);
    let label = prop_oneof![9 => part.prop_map(|part| part.as_bytes().to_vec()), 1 => bytes];
    let end = prop_oneof![Just("internal"), Just("flycast"), Just("web.internal"), Just("a.a.d.f.ip6.arpa"), Just(".")];
    (proptest::collection::vec(label, 0..5), end).prop_map(|(labels, end)| {
        labels.iter().fold(end.parse().unwrap(), |name: Name, label| name.child(label).unwrap_or(name))
    })
}

proptest! {
    #[test]
    fn whatever_is_asked_only_the_caller_s_network_is_told(
        name in names(), kind in prop_oneof![Just(28), Just(16), Just(12), Just(255), any::<u16>()], id: u16,
        from_acme: bool, tcp: bool,
    ) {
        let internal = Internal::new(world(), None);
        let (caller, stranger) = if from_acme { (ACME, OTHER) } else { (OTHER, ACME) };
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let message = asked(&internal, &name, kind, id, address(caller, 1).into(), transport);
        let answers = usize::from(u16::from_be_bytes([message[6], message[7]]));
        let foreign = address(stranger, 0).octets();
        for record in Records::new(&message, 12 + name.wire().len() + 4, answers) {
            let record = record.unwrap();
            if record.kind == Type::AAAA {
                let address = Ipv6Addr::from(<[u8; 16]>::try_from(record.data).unwrap());
                let platform = address == "fdaa::4".parse::<Ipv6Addr>().unwrap();
                prop_assert!(platform || network_of(address) == Some(caller), "{address} was told");
            }
            let prefix = format!("ip={}", Ipv6Addr::from(foreign)).split("::").next().unwrap().to_owned();
            prop_assert!(!String::from_utf8_lossy(record.data).contains(&prefix), "a foreign address in a list");
        }
    }
}
