use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_catalogue::Snapshot;
use atoll_model::Row;
use atoll_model::address::NetworkId;
use atoll_model::reach::{Path, Reachability};
use atoll_model::row::{AppRow, ChallengeRow, NodeRow, NodeState};
use proptest::prelude::*;

use super::*;
use crate::internal::Here;
use crate::serve::{Next, Now, handle};
use crate::wire::{Name, Query, Records, Transport, Type};

const DOMAIN: &str = "apps.example";

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

fn node(name: &str, state: NodeState, addresses: &[&str]) -> Row {
    Row::Node(NodeRow {
        name: name.parse().unwrap(),
        region: name[..3].parse().unwrap(),
        state,
        epoch: 1,
        backhaul: None,
        worker_rpc: None,
        public_addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        egress_addresses: Vec::new(),
        mesh: None,
        gateway: None,
        zones: Vec::new(),
    })
}

fn challenge(host: &str, values: &[&str]) -> Row {
    let values = values.iter().map(|value| value.to_string()).collect();
    Row::Challenge(ChallengeRow { host: host.into(), values })
}

const PLACES: &str = "198.51.100.0/24,nrt\n203.0.113.0/24,ord\n2001:db8:a::/48,nrt\n";

/// A view from Amsterdam of edges in three regions, two of them in Tokyo.
fn view(shared: &[&str], unreachable: &[&str], state: NodeState) -> View {
    let rows = [
        app(
            "web",
            &["www.shop.example", "*.shop.example", "shop.example", "deep.a.b.shop.example"],
            &["fdaa:0:1:0:1::5"],
        ),
        app("own", &[], &["192.0.2.9", "2001:db8::9"]),
        node("ams1", state, &["192.0.2.1", "2001:db8::1"]),
        node("nrt1", state, &["192.0.2.11", "2001:db8::11"]),
        node("nrt2", state, &["192.0.2.12"]),
        node("ord1", state, &["192.0.2.21"]),
        node("fra1", NodeState::Revoked, &["192.0.2.31"]),
        challenge("www.shop.example", &["proof", "another"]),
        challenge("far.away.apps.example", &["proof"]),
    ];
    let lost = Path { round_trip: Duration::ZERO, loss: 1.0, reachable: false };
    let reach = Reachability { paths: unreachable.iter().map(|node| (node.parse().unwrap(), lost)).collect() };
    let here = Here { node: "ams1".parse().unwrap(), region: "ams".parse().unwrap() };
    View::new(
        Snapshot::from_rows(rows),
        &reach,
        &here,
        shared.iter().map(|address| address.parse().unwrap()).collect(),
        Arc::new(Places::parse(PLACES).unwrap()),
    )
}

fn zones(signed: bool) -> Vec<Zone> {
    let servers = |origin: &Name| {
        vec![
            NameServer { name: origin.child(b"ns1").unwrap(), addresses: vec!["192.0.2.53".parse().unwrap()] },
            NameServer { name: "ns2.elsewhere.example".parse().unwrap(), addresses: Vec::new() },
        ]
    };
    [(DOMAIN, Kind::AppDomain), ("shop.example", Kind::Delegated)]
        .map(|(origin, kind)| {
            let origin = origin.parse().unwrap();
            let zone = Zone::new(origin, kind, servers(&origin), 7).unwrap();
            if signed { zone.signed(Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap()) } else { zone }
        })
        .into()
}

fn public(signed: bool) -> Public {
    Public::new(zones(signed), view(&[], &[], NodeState::Active))
}

/// What came back: the code, and the answer's records as type and data.
#[derive(Debug)]
struct Said {
    code: u8,
    answers: Vec<(Type, Vec<u8>)>,
    authorities: Vec<(Type, Vec<u8>)>,
    subnet_scope: Option<u8>,
}

struct Ask<'a> {
    name: &'a str,
    kind: Type,
    from: &'a str,
    /// EDNS options, if EDNS is spoken, and its flags.
    options: Option<(&'a [u8], u8)>,
}

impl<'a> Ask<'a> {
    fn new(name: &'a str, kind: Type) -> Self {
        Self { name, kind, from: "192.0.2.200", options: None }
    }

    fn of(&self, public: &Public) -> Said {
        let mut message = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(self.options.is_some())];
        message.extend(self.name.parse::<Name>().unwrap().wire());
        message.extend([self.kind.0.to_be_bytes(), [0, 1]].concat());
        if let Some((options, flags)) = self.options {
            message.extend([0, 0, 41, 4, 0xd0, 0, 0, flags, 0, 0, options.len() as u8]);
            message.extend(options);
        }
        let mut out = Vec::new();
        let next = handle(public, &message, self.from.parse().unwrap(), Transport::Udp, Now::read(), &mut out);
        assert!(matches!(next, Some(Next::Reply)));
        let count = |at: usize| usize::from(u16::from_be_bytes([out[at], out[at + 1]]));
        let begin = 12 + Query::read(&message).unwrap().question().len();
        let records: Vec<_> =
            Records::new(&out, begin, count(6) + count(8) + count(10)).map(|record| record.unwrap()).collect();
        let plain = |records: &[crate::wire::RawRecord<'_>]| {
            records.iter().map(|record| (record.kind, record.data.to_vec())).collect::<Vec<_>>()
        };
        let opt = records.iter().find(|record| record.kind == Type::OPT);
        Said {
            code: out[3] & 0xf,
            answers: plain(&records[..count(6)]),
            authorities: plain(&records[count(6)..count(6) + count(8)]),
            subnet_scope: opt.and_then(|record| record.data.get(7).copied()),
        }
    }
}

fn addresses(said: &Said) -> Vec<String> {
    let address = |(kind, data): &(Type, Vec<u8>)| match *kind {
        Type::A => Some(IpAddr::from(<[u8; 4]>::try_from(&data[..]).unwrap()).to_string()),
        Type::AAAA => Some(IpAddr::from(<[u8; 16]>::try_from(&data[..]).unwrap()).to_string()),
        _ => None,
    };
    said.answers.iter().filter_map(address).collect()
}

fn at(public: &Public, name: &str, kind: Type) -> Vec<String> {
    addresses(&Ask::new(name, kind).of(public))
}

#[test]
fn an_app_is_given_its_own_addresses_else_shared_ones_else_edges() {
    let edges = public(false);
    assert_eq!(at(&edges, "own.apps.example", Type::A), ["192.0.2.9"]);
    assert_eq!(at(&edges, "own.apps.example", Type::AAAA), ["2001:db8::9"]);
    assert_eq!(at(&edges, "web.apps.example", Type::A), ["192.0.2.1"], "never a private address");
    // One that some apps share is told as their own; edges know apps there by name alone.
    let Row::App(own) = app("own", &[], &["2001:db8::9"]) else { unreachable!("an app's row") };
    let row = Row::App(AppRow { shared_addresses: vec!["192.0.2.50".parse().unwrap()], ..own });
    let mut sharing = view(&["192.0.2.100"], &[], NodeState::Active);
    sharing.catalogue = Snapshot::from_rows([row]);
    let sharing = Public::new(zones(false), sharing);
    assert_eq!(at(&sharing, "own.apps.example", Type::A), ["192.0.2.50"]);
    assert_eq!(at(&sharing, "own.apps.example", Type::AAAA), ["2001:db8::9"]);
    let shared = Public::new(zones(false), view(&["192.0.2.100"], &[], NodeState::Active));
    assert_eq!(at(&shared, "web.apps.example", Type::A), ["192.0.2.100"]);
    assert_eq!(at(&shared, "web.apps.example", Type::AAAA), ["2001:db8::1"], "each family by itself");
    for host in ["www.shop.example", "x.shop.example", "shop.example", "deep.a.b.shop.example"] {
        assert_eq!(at(&shared, host, Type::A), ["192.0.2.100"], "{host}");
    }
}

#[test]
fn the_api_is_entered_like_an_app_and_no_app_takes_its_name() {
    let mut view = view(&[], &[], NodeState::Active);
    let rows = [app("api", &[], &["192.0.2.66"]), node("ams1", NodeState::Active, &["192.0.2.1", "2001:db8::1"])];
    view.catalogue = Snapshot::from_rows(rows);
    let edges = Public::new(zones(false), view);
    assert_eq!(at(&edges, "api.apps.example", Type::A), ["192.0.2.1"]);
    assert_eq!(at(&edges, "API.apps.example", Type::AAAA), ["2001:db8::1"]);
    let far = Ask { name: "api.apps.example", kind: Type::A, from: "198.51.100.9", options: None }.of(&public(false));
    assert_eq!(addresses(&far), ["192.0.2.11", "192.0.2.12"]);
    let anycast = Public::new(zones(false), super::tests::view(&["192.0.2.100"], &[], NodeState::Active));
    assert_eq!(at(&anycast, "api.apps.example", Type::A), ["192.0.2.100"]);
    let last = Public::new(zones(false), super::tests::view(&[], &["nrt1", "nrt2", "ord1"], NodeState::Draining));
    assert_eq!(at(&last, "api.apps.example", Type::A), ["192.0.2.1"], "never empty while an edge lives");
}

#[test]
fn users_are_sent_to_the_edges_near_them() {
    let public = public(false);
    let from = |from: &str, options: Option<(&[u8], u8)>| {
        Ask { name: "web.apps.example", kind: Type::A, from, options }.of(&public)
    };
    assert_eq!(addresses(&from("198.51.100.9", None)), ["192.0.2.11", "192.0.2.12"]);
    assert_eq!(addresses(&from("203.0.113.9", None)), ["192.0.2.21"]);
    assert_eq!(addresses(&from("192.0.2.200", None)), ["192.0.2.1"], "who is nowhere is where we are");
    // A resolver in Chicago asks for somebody in Tokyo, of whom it tells 24 bits.
    let subnet: &[u8] = &[0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100];
    let said = from("203.0.113.9", Some((subnet, 0)));
    assert_eq!((addresses(&said).len(), said.subnet_scope), (2, Some(24)));
    let unknown: &[u8] = &[0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 101];
    let said = from("203.0.113.9", Some((unknown, 0)));
    assert_eq!((addresses(&said), said.subnet_scope), (vec!["192.0.2.21".to_owned()], Some(0)));
}

#[test]
fn edges_that_are_lost_or_leaving_are_given_only_when_no_better_one_is_left() {
    let from_tokyo = |view: View| {
        let public = Public::new(zones(false), view);
        addresses(&Ask { from: "198.51.100.9", ..Ask::new("web.apps.example", Type::A) }.of(&public))
    };
    assert_eq!(from_tokyo(view(&[], &["nrt1"], NodeState::Active)), ["192.0.2.12"]);
    assert_eq!(from_tokyo(view(&[], &["nrt1", "nrt2"], NodeState::Active)), ["192.0.2.1"], "over the pole");
    assert_eq!(from_tokyo(view(&[], &["nrt1", "nrt2", "ord1"], NodeState::Draining)), ["192.0.2.1"]);
    assert_eq!(from_tokyo(view(&[], &[], NodeState::Revoked)), [""; 0]);
}

#[test]
fn zones_say_who_serves_them_and_what_does_not_exist() {
    let public = public(false);
    let said = Ask::new(DOMAIN, Type::NS).of(&public);
    assert_eq!((said.code, said.answers.len()), (0, 2));
    assert_eq!(at(&public, "ns1.apps.example", Type::A), ["192.0.2.53"]);
    let proof = Ask::new("_acme-challenge.www.shop.example", Type::TXT).of(&public);
    assert_eq!(proof.answers, [(Type::TXT, b"\x05proof".to_vec()), (Type::TXT, b"\x07another".to_vec())]);
    let proof = Ask::new("_acme-challenge.far.away.apps.example", Type::TXT).of(&public);
    assert_eq!(proof.answers, [(Type::TXT, b"\x05proof".to_vec())]);
    for (name, kind, code) in [
        ("none.apps.example", Type::A, 3),
        ("a.web.apps.example", Type::A, 3),
        ("web.apps.example", Type::TXT, 0),
        ("b.shop.example", Type::TXT, 0),
        // Names between others exist, or resolvers would never ask further down.
        ("a.b.shop.example", Type::A, 0),
        ("far.away.apps.example", Type::A, 0),
        ("away.apps.example", Type::A, 0),
        ("_acme-challenge.away.apps.example", Type::TXT, 3),
        ("x.a.b.shop.example", Type::A, 3),
    ] {
        let said = Ask::new(name, kind).of(&public);
        assert_eq!((said.code, said.answers.len(), said.authorities.len()), (code, 0, 1), "{name}");
    }
    for name in ["example", "other.example", "."] {
        assert_eq!(Ask::new(name, Type::A).of(&public).code, 5, "{name}");
    }
    assert_eq!(Ask::new(DOMAIN, Type::AXFR).of(&public).code, 1);
}

#[test]
fn signed_zones_sign_for_those_who_ask_and_deny_by_the_smallest_proof() {
    let public = public(true);
    let signed = |name| Ask { options: Some((&[], 0x80)), ..Ask::new(name, Type::A) }.of(&public);
    let kinds = |records: &[(Type, Vec<u8>)]| records.iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
    assert_eq!(kinds(&signed("web.apps.example").answers), [Type::A, Type::RRSIG]);
    assert_eq!(kinds(&Ask::new("web.apps.example", Type::A).of(&public).answers), [Type::A]);
    let none = signed("none.apps.example");
    assert_eq!(none.code, 0);
    assert_eq!(kinds(&none.authorities), [Type::SOA, Type::RRSIG, Type::NSEC, Type::RRSIG]);
    let next: Name = "none.apps.example".parse::<Name>().unwrap().child(&[0]).unwrap();
    let bitmap = [0, 17, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80];
    assert_eq!(none.authorities[2].1, [next.wire(), &bitmap].concat());
    assert_eq!(Ask::new("none.apps.example", Type::A).of(&public).code, 3);
    // Signatures of a day are the same, so that they are made once.
    assert_eq!(signed("web.apps.example").answers, signed("web.apps.example").answers);
}

proptest! {
    #[test]
    fn an_app_never_has_an_empty_answer_while_an_edge_lives(
        lost in proptest::sample::subsequence(vec!["nrt1", "nrt2", "ord1"], 0..=3),
        draining: bool, from: [u8; 4], id: u16, api: bool,
    ) {
        let state = if draining { NodeState::Draining } else { NodeState::Active };
        let public = Public::new(zones(false), view(&[], &lost, state));
        let from = IpAddr::from(from).to_string();
        let name = if api { "api.apps.example" } else { "web.apps.example" };
        let said = Ask { from: &from, ..Ask::new(name, Type::A) }.of(&public);
        let given = addresses(&said);
        prop_assert!(!given.is_empty());
        let live = ["192.0.2.1", "192.0.2.11", "192.0.2.12", "192.0.2.21"];
        let is_lost = |address: &String| lost.iter().any(|node| match *node {
            "nrt1" => address == "192.0.2.11",
            "nrt2" => address == "192.0.2.12",
            _ => address == "192.0.2.21",
        });
        prop_assert!(given.iter().all(|address| live.contains(&&**address) && !is_lost(address)), "{:?} {}", given, id);
    }

    #[test]
    fn no_packet_panics_and_no_answer_is_too_long(
        labels in proptest::collection::vec("[a-z0-9_*-]{1,12}", 0..6), kind: u16, flags: u8, at in 0_usize..80, byte: u8,
    ) {
        let name = labels.iter().fold(DOMAIN.parse().unwrap(), |name: Name, label| name.child(label.as_bytes()).unwrap());
        let mut message = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend(name.wire());
        message.extend([kind.to_be_bytes(), [0, 1]].concat());
        message.extend([0, 0, 41, 2, 0, 0, 0, flags, 0, 0, 0]);
        let public = public(true);
        let from = IpAddr::from([192, 0, 2, 200]);
        crate::fuzz::packet(&public, &message, from, Now::read());
        if let Some(place) = message.get_mut(at) {
            *place = byte;
        }
        crate::fuzz::packet(&public, &message, from, Now::read());
    }
}
